_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'acmix-swin-t.py']

model = dict(
    backbone=dict(_base_.acmix_swin_t, _delete_=True),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
