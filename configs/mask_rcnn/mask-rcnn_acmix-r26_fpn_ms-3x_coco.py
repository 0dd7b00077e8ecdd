_base_ = 'mask-rcnn_acmix-r50_fpn_ms-3x_coco.py'

model = dict(backbone=dict(depth=26))
