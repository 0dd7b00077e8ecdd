# X-volution in the third stage. No ImageNet weights are published, so nothing is frozen.
_base_ = '../maskrcnn_acmix.py'

model = dict(backbone=dict(_delete_=True, type='XVolutionResNet', depth=50, norm_eval=False))
