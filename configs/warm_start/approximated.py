# Backbone weights from a plain ResNet; ACmix's convolution path approximates its 3x3 convolutions.
_base_ = './nothing.py'
pretrained = dict(type='Pretrained', checkpoint='work_dirs/ablation/approximated.pth')
model = dict(backbone=dict(init_cfg=pretrained))
