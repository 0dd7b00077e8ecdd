# RTMDet-tiny as in rtmdet_tiny_plain_shapes.py, with ACmix after P3, P4 and P5, in front of the head.
_base_ = 'rtmdet_tiny_plain_shapes.py'

acmix = dict(type='ACmix', num_heads=4, attention_kernel_size=7)
model = dict(neck=[_base_.model.neck, dict(type='ACmixNeck', in_channels=[96] * 3, layer=acmix)])
