# The convolution path alone: projections, and shifts that learn as a group convolution.
_base_ = './both.py'
model = dict(backbone=dict(acmix=dict(rates=(0.0, 1.0), learn_rates=False)))
