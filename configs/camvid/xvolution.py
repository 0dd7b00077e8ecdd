# acmix.py with X-volution in the third stage, where its authors put it, in place of ACmix.
_base_ = 'acmix.py'

model = dict(backbone=dict(type='XVolutionResNet'))
