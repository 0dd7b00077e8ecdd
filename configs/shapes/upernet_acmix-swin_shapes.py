# A small UperNet with ACmix-Swin for the generated data set and two CPU cores.
_base_ = [
    '../_base_/models/upernet_acmix-swin-t.py',
    '../_base_/datasets/shapes_semantic.py',
    '../_base_/schedules/paramwise.py',
    '../_base_/seg_runtime.py',
]

# Batches per process are too small for batch normalisation.
norm_cfg = dict(_delete_=True, type='GN', num_groups=8, requires_grad=True)
channels = [64, 128, 256]
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        _delete_=True,
        type='ACmixSwinTransformer',
        # Large patches: on a CPU, more images help more than higher resolution.
        arch=dict(embed_dims=channels[0], depths=(1, 1, 1), num_heads=(2, 4, 8)),
        patch_size=8,
        window_size=8,
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        # In a few minutes the convolution path learns more than attention.
        acmix=dict(rates=(0.1, 1.0)),
        # Swin's initialisation, with a standard deviation of 0.02, suits wide networks and long training.
        init_cfg=dict(type='Xavier', layer='Linear', distribution='uniform'),
    ),
    decode_head=dict(
        in_channels=channels,
        in_index=[0, 1, 2],
        pool_scales=(1, 2, 4),
        channels=48,
        num_classes=7,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(
        in_channels=channels[1], in_index=1, channels=48, num_classes=7, dropout_ratio=0.0, norm_cfg=norm_cfg
    ),
)

iterations = 2300
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.99), weight_decay=0.01),
    clip_grad=dict(max_norm=5),
    paramwise_cfg={{_base_.paramwise_cfg}},
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=iterations // 2, end=iterations, eta_min=0),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=iterations))
