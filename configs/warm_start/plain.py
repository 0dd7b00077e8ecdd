# The backbone of a trained plain ResNet (configs/ablation/plain.py) but for its 3x3 convolutions, which start random.
_base_ = './nothing.py'
pretrained = dict(type='Pretrained', checkpoint='work_dirs/ablation/plain/seed0/iter_400.pth', prefix='backbone.')
model = dict(backbone=dict(init_cfg=pretrained))
