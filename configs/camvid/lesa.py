# acmix.py with LESA in the last two stages, where its authors put it, in place of ACmix.
_base_ = 'acmix.py'

model = dict(backbone=dict(type='LESAResNet'))
