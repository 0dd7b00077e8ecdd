# Only the convolution path of acmix.py: projections, and learned shifts as a group convolution.
_base_ = 'acmix.py'

model = dict(backbone=dict(acmix=dict(num_heads=4, attention_kernel_size=7, rates=(0.0, 1.0), learn_rates=False)))
