# Only the attention path.
_base_ = './both.py'
model = dict(backbone=dict(acmix=dict(rates=(1.0, 0.0), learn_rates=False)))
