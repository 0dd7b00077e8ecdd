_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_sgd_90e.py',
    '../_base_/cls_runtime.py',
]

model = dict(
    backbone=dict(type='ACmixResNet', depth=50, out_indices=(3,), norm_eval=False),
    head=dict(in_channels=2048),
)
