_base_ = [
    '../_base_/models/classifier_mixed.py',
    '../_base_/datasets/imagenet_strong.py',
    '../_base_/schedules/imagenet_adamw_300e.py',
    '../_base_/cls_runtime.py',
]

model = dict(
    backbone=dict(type='ACmixSwinTransformer', arch='tiny', drop_path_rate=0.2, out_indices=(3,)),
    head=dict(in_channels=768),
)
