_base_ = [
    '../_base_/models/retinanet_acmix-pvt-t_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/pvt_1x.py',
    'mmdet::_base_/default_runtime.py',
]
