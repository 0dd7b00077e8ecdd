# A plain ResNet of the same depth, with 3x3 convolutions.
_base_ = './both.py'
model = dict(backbone=dict(stage_with_acmix=(False, False, False, False)))
