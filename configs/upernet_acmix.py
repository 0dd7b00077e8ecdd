# UperNet with ACmix-Swin-T on ADE20K, 160k iterations of 16 images.
_base_ = [
    '_base_/models/upernet_acmix-swin-t.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/upernet_160k.py',
    '_base_/schedules/paramwise.py',
    '_base_/seg_runtime.py',
]

# Plain Swin-T of ImageNet-1K, in which the second path starts at rate 0 and grows.
model = dict(
    backbone=dict(
        convert_weights=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth',
        ),
    )
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg={{_base_.paramwise_cfg}},
)
