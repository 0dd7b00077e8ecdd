_base_ = [
    '../_base_/models/sem-fpn_acmix-pvt-t.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/sem-fpn_40k.py',
    '../_base_/schedules/paramwise.py',
    '../_base_/seg_runtime.py',
]

train_dataloader = dict(batch_size=4)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4),
    paramwise_cfg={{_base_.paramwise_cfg}},
)
default_hooks = dict(checkpoint=dict(interval=4000))
