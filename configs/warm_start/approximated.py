# All of the backbone of a trained plain ResNet, its 3x3 convolutions approximated by ACmix's convolution path.
_base_ = './nothing.py'
pretrained = dict(type='Pretrained', checkpoint='work_dirs/ablation/approximated.pth')
model = dict(backbone=dict(init_cfg=pretrained))
