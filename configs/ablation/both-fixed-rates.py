# Attention and convolution with equal, fixed rates.
_base_ = './both.py'
model = dict(backbone=dict(acmix=dict(rates=(0.5, 0.5), learn_rates=False)))
