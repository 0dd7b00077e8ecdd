# A plain ResNet of the same depth, trained for as many iterations as fit in five minutes (docs/mixing.md).
_base_ = '../shapes/mask-rcnn_acmix-r26_shapes.py'

model = dict(backbone=dict(stage_with_acmix=(False, False, False, False)))

iterations = 500
train_cfg = dict(max_iters=iterations, val_interval=iterations)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=iterations, eta_min=0),
]
default_hooks = dict(checkpoint=dict(interval=iterations))
