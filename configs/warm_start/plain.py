# Backbone weights from a plain ResNet (configs/ablation/plain.py), except random ones for its 3x3 convolutions.
_base_ = './nothing.py'
pretrained = dict(type='Pretrained', checkpoint='work_dirs/ablation/plain/seed0/iter_400.pth', prefix='backbone.')
model = dict(backbone=dict(init_cfg=pretrained))
