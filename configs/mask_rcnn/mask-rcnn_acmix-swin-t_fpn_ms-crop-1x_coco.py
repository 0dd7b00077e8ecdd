_base_ = [
    '../_base_/models/mask-rcnn_acmix-swin-t_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/swin_1x.py',
    '../_base_/schedules/paramwise.py',
    'mmdet::_base_/default_runtime.py',
]

optim_wrapper = dict(paramwise_cfg={{_base_.paramwise_cfg}})
