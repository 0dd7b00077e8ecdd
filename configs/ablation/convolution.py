# Only the convolution path: projections, and learned shifts as a group convolution.
_base_ = './both.py'
model = dict(backbone=dict(acmix=dict(rates=(0.0, 1.0), learn_rates=False)))
