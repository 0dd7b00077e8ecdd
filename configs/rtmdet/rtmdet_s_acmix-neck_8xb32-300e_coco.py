# RTMDet-s with ACmix after P3, P4 and P5, in front of the head.
_base_ = ['mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', '../_base_/schedules/paramwise.py']

custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
acmix = dict(type='ACmix', num_heads=4, attention_kernel_size=7)
model = dict(neck=[_base_.model.neck, dict(type='ACmixNeck', in_channels=[128] * 3, layer=acmix)])
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.paramwise_cfg.custom_keys))
custom_hooks = [*_base_.custom_hooks, dict(type='PlainStateHook')]
auto_scale_lr = dict(base_batch_size=256)  # the base config has the 16 of its 1x schedule
