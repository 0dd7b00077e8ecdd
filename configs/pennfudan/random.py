# ACmix as in copied.py, but from random weights. Two images are too few for batch normalisation.
_base_ = 'copied.py'

norm_cfg = dict(type='GN', num_groups=16, requires_grad=True)
model = dict(backbone=dict(frozen_stages=-1, norm_cfg=norm_cfg, init_cfg=None))
custom_hooks = [dict(type='PlainStateHook')]
