# PVT's recipe for COCO: MMDetection's 1x schedule with AdamW; batch 16, on 8 GPUs with 2 images each.
_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'paramwise.py']

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=_base_.paramwise_cfg,
)
