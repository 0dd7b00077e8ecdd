# An ImageNet classifier; derived configs set the backbone and the head's in_channels.
custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
# Checkpoints that the hosts' own tools can resume from: torch 2.6 and newer refuses other objects than plain values.
custom_hooks = [dict(type='PlainStateHook')]

model = dict(
    type='ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
