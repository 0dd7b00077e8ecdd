# Only the attention path of acmix.py.
_base_ = 'acmix.py'

model = dict(backbone=dict(acmix=dict(num_heads=4, attention_kernel_size=7, rates=(1.0, 0.0), learn_rates=False)))
