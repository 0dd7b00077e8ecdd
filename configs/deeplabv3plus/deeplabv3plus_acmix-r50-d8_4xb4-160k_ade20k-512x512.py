# The last two stages are dilated instead of strided: maps of an eighth of the image.
_base_ = '../upernet/upernet_acmix-r50_8xb2-160k_ade20k-512x512.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(
        _delete_=True,
        type='DepthwiseSeparableASPPHead',
        in_channels=2048,
        in_index=3,
        channels=512,
        dilations=(1, 12, 24, 36),
        c1_in_channels=256,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
train_dataloader = dict(batch_size=4)
