# Starts as plain PVT-Tiny pretrained on ImageNet-1K: the rate of the second path is initially 0.
custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
# Checkpoints that the hosts' own tools can resume from: torch 2.6 and newer refuses other objects than plain values.
custom_hooks = [dict(type='PlainStateHook')]

acmix_pvt_t = dict(
    type='ACmixPyramidVisionTransformer',
    arch='tiny',
    drop_path_rate=0.1,
    out_indices=(0, 1, 2, 3),
    convert_weights=True,
    init_cfg=dict(type='Pretrained', checkpoint='https://github.com/whai362/PVT/releases/download/v2/pvt_tiny.pth'),
)
