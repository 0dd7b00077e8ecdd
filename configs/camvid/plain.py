# The plain twin of acmix.py: 3x3 convolutions in place of ACmix (docs/photographs.md).
_base_ = 'acmix.py'

model = dict(backbone=dict(stage_with_acmix=(False, False, False, False)))
