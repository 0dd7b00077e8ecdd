# The plain twin of copied.py, whose weights are all copied.
_base_ = 'copied.py'

model = dict(backbone=dict(stage_with_acmix=(False, False, False, False)))
