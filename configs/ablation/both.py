# Attention and convolution with learned rates and shifts that learn as a group convolution: ACmix as it is.
_base_ = '../shapes/mask-rcnn_acmix-r26_shapes.py'

train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=True)))  # as docs/ablation.md was measured
iterations = 400
train_cfg = dict(max_iters=iterations, val_interval=iterations)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=iterations, eta_min=0),
]
default_hooks = dict(checkpoint=dict(interval=iterations))
