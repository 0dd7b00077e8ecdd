# The convolution path shifts by fixed one-hot kernels (figure 3b of the paper).
_base_ = './both.py'
model = dict(backbone=dict(acmix=dict(shift_form='frozen')))
