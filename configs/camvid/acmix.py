# Semantic FPN with a small ACmix-ResNet on CamVid, from scratch (docs/photographs.md).
_base_ = [
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/paramwise.py',
    '../_base_/seg_runtime.py',
]

custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
norm_cfg = dict(type='BN', requires_grad=True)
channels = 64
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=_base_.void,
        size=_base_.crop_size,
    ),
    backbone=dict(type='ACmixResNet', depth=26, base_channels=32, deep_stem=True, norm_cfg=norm_cfg, norm_eval=False),
    neck=dict(type='FPN', in_channels=[128, 256, 512, 1024], out_channels=channels, norm_cfg=norm_cfg, num_outs=4),
    decode_head=dict(
        type='FPNHead',
        in_channels=[channels] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=channels,
        dropout_ratio=0.1,
        num_classes=12,  # the last one learns nothing: MMSegmentation looks up the class weight of void pixels, too
        ignore_index=_base_.void,
        norm_cfg=norm_cfg,
        align_corners=False,
        # Square roots of ENet's class weights (arXiv 1606.02147), 1 / ln(1.02 + share of the training pixels), with a
        # mean of 1 over the pixels. With ENet's own weights, the network predicts rare classes too often.
        loss_decode=dict(
            type='CrossEntropyLoss',
            avg_non_ignore=True,
            class_weight=[0.96, 0.84, 2.34, 0.74, 1.59, 1.19, 2.27, 2.28, 1.45, 2.49, 2.68, 0.0],
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

# As many iterations as the plain network makes in 40 minutes on two CPU cores.
iterations = 4000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations // 4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5),
    paramwise_cfg={{_base_.paramwise_cfg}},
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=0.9, by_epoch=False, begin=100, end=iterations),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=100, max_keep_ckpts=1))
custom_hooks = [dict(type='PlainStateHook')]
