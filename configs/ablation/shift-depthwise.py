# The convolution path shifts by learned depthwise kernels (between figures 3b and 3c of the paper).
_base_ = './both.py'
model = dict(backbone=dict(acmix=dict(shift_form='depthwise')))
