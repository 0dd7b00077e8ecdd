# YOLOX-tiny for the generated data set and two CPU cores, from random weights.
_base_ = [
    '../_base_/models/yolox-tiny.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/shapes_one-stage.py',
]

custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
model = dict(bbox_head=dict(num_classes=6))
