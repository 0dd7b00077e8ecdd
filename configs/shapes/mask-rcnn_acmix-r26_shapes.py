# A small Mask R-CNN with ACmix-ResNet-26 for the generated data set and two CPU cores.
_base_ = [
    '../_base_/models/mask-rcnn_acmix-r50_fpn.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/paramwise.py',
    'mmdet::_base_/default_runtime.py',
]

# Two images per process are too few for batch normalisation: training adapts to their statistics, which differ from
# the running statistics used in evaluation.
norm_cfg = dict(type='IN', affine=True, requires_grad=True)
head_norm_cfg = dict(type='BN', momentum=0.02)  # batches of many regions

model = dict(
    backbone=dict(depth=26, base_channels=32, deep_stem=True, norm_cfg=norm_cfg),
    neck=dict(in_channels=[128, 256, 512, 1024], out_channels=64, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4], ratios=[1.0])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=20, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=head_norm_cfg,
            num_classes=6,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(out_channels=64, finest_scale=20, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=32,
            norm_cfg=head_norm_cfg,
            num_classes=6,
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=100)),
)

# Images without objects are kept: without them, the network detects objects in background textures.
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))

iterations = 850
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# The box head's first layer has thousands of inputs and is unstable at the convolutions' learning rate.
paramwise_cfg = _base_.paramwise_cfg
paramwise_cfg.custom_keys.update(shared_fcs=dict(lr_mult=0.2))
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2.5e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5),
    paramwise_cfg=paramwise_cfg,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=iterations, eta_min=0),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(by_epoch=False, interval=iterations))
log_processor = dict(by_epoch=False)
