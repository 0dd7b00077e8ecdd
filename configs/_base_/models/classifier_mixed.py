# An ImageNet classifier trained with Mixup and CutMix, as usual for transformers.
_base_ = 'classifier.py'

model = dict(
    head=dict(cal_acc=False),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
