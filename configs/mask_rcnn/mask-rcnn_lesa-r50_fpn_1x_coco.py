# LESA in the third and fourth stages, from random weights, so nothing is frozen.
_base_ = '../maskrcnn_acmix.py'

model = dict(backbone=dict(_delete_=True, type='LESAResNet', depth=50, norm_eval=False))
