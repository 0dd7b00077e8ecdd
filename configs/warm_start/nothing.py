# Random weights, and a schedule short enough to show the benefit of better initial weights.
_base_ = '../ablation/both.py'
iterations = 200
train_cfg = dict(max_iters=iterations, val_interval=50)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=iterations, eta_min=0),
]
default_hooks = dict(checkpoint=dict(interval=iterations))
