_base_ = [
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    '../_base_/models/acmix-swin-t.py',
    '../_base_/schedules/transformer-head_swin-t.py',
]

model = dict(
    backbone=dict(_base_.acmix_swin_t, _delete_=True, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(_base_.paramwise_cfg, _delete_=True))
