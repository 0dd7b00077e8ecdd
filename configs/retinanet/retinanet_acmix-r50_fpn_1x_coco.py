_base_ = [
    '../_base_/models/retinanet_acmix-r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/schedules/paramwise.py',
]

optim_wrapper = dict(optimizer=dict(lr=0.01), paramwise_cfg={{_base_.paramwise_cfg}})
