# 3x schedule (12 epochs of three passes each), the shorter side drawn from 640 to 800.
_base_ = [
    'mmdet::common/ms-poly_3x_coco-instance.py',
    '../_base_/models/mask-rcnn_acmix-r50_fpn.py',
    '../_base_/schedules/paramwise.py',
]

optim_wrapper = dict(paramwise_cfg={{_base_.paramwise_cfg}})
