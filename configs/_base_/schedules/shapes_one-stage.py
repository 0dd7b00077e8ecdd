# Ten minutes on two CPU cores for a small one-stage detector on the generated data set, from random weights.
_base_ = ['paramwise.py', 'mmdet::_base_/default_runtime.py']

iterations = 900
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
    paramwise_cfg=dict(_base_.paramwise_cfg, bypass_duplicate=True),  # RTMDet's head shares convolutions
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=iterations, eta_min=0),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(by_epoch=False, interval=iterations))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type='PlainStateHook')]
