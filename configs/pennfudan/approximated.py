# ACmix's convolution path approximates the 3x3 convolutions of the plain ResNet; otherwise as copied.py.
_base_ = 'copied.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/pennfudan/approximated-r50.pth')))
