# RTMDet-s with ACmix in place of the 3x3 convolution in the neck's block for P3.
_base_ = ['mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', '../_base_/schedules/paramwise.py']

custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
acmix = dict(type='ACmix', num_heads=2, attention_kernel_size=5)
neck = dict(type='ReplaceConvs', network=_base_.model.neck, where=r'top_down_blocks\.1\..*conv1', layer=acmix)
model = dict(neck=dict(_delete_=True, **neck))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.paramwise_cfg.custom_keys))
custom_hooks = [*_base_.custom_hooks, dict(type='PlainStateHook')]
auto_scale_lr = dict(base_batch_size=256)  # the base config has the 16 of its 1x schedule
