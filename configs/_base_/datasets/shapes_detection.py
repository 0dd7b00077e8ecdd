# The generated data set (tools/make_shapes.py) for detectors without masks.
_base_ = 'shapes_instance.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# Images without objects are kept: without them, the network detects objects in background textures.
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=False)))
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
