# UperNet with ACmix-Swin-T on ADE20K, 160k iterations of 16 images.
_base_ = [
    '_base_/models/upernet_acmix-swin-t.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/upernet_160k.py',
    '_base_/schedules/paramwise.py',
    '_base_/seg_runtime.py',
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg={{_base_.paramwise_cfg}},
)
