# Mask R-CNN with a small ACmix-ResNet-50 on the Penn-Fudan pedestrians (docs/photographs.md). All weights of a plain
# ResNet are copied, except those of the 3x3 convolutions that ACmix replaces.
_base_ = [
    '../_base_/models/mask-rcnn_acmix-r50_fpn.py',
    '../_base_/datasets/penn_fudan.py',
    '../_base_/schedules/paramwise.py',
    'mmdet::_base_/default_runtime.py',
]

channels = 128
model = dict(
    data_preprocessor=dict(mean=[104.0, 117.0, 123.0], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        base_channels=32,
        stem_channels=64,
        style='caffe',
        frozen_stages=0,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/pennfudan/plain-r50.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024], out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=512, num_classes=1),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(in_channels=channels, conv_out_channels=channels, num_classes=1),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000, max_per_img=500),
        rcnn=dict(sampler=dict(num=128)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)

iterations = 600
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=5),
    paramwise_cfg={{_base_.paramwise_cfg}},
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=iterations, eta_min=0),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
# The statistics of the plain network do not fit ACmix.
custom_hooks = [dict(type='PlainStateHook'), dict(type='NormStatisticsHook')]
