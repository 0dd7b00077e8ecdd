# Mask R-CNN with ACmix-ResNet-50 on COCO, MMDetection's 1x schedule: 12 epochs, 8 GPUs x 2 images.
_base_ = [
    '_base_/models/mask-rcnn_acmix-r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    '_base_/schedules/paramwise.py',
]

optim_wrapper = dict(paramwise_cfg={{_base_.paramwise_cfg}})
