_base_ = '../maskrcnn_acmix.py'

model = dict(backbone=dict(depth=26))
