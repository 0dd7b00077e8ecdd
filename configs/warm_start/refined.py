# Like approximated.py, with the approximation refined on images.
_base_ = './nothing.py'
pretrained = dict(type='Pretrained', checkpoint='work_dirs/ablation/refined.pth')
model = dict(backbone=dict(init_cfg=pretrained))
