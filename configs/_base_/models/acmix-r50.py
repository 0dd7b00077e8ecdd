# No ImageNet weights of ACmix-ResNets are published, so nothing is frozen and batch normalisation is trained.
custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
# Checkpoints that the hosts' own tools can resume from: torch 2.6 and newer refuses other objects than plain values.
custom_hooks = [dict(type='PlainStateHook')]

acmix_r50 = dict(
    type='ACmixResNet',
    depth=50,
    out_indices=(0, 1, 2, 3),
    frozen_stages=-1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=False,
    acmix=dict(num_heads=4, attention_kernel_size=7),
)
