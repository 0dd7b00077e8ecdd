# Starts as plain Swin-T pretrained on ImageNet-1K: the rate of the second path is initially 0.
custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)
# Checkpoints that the hosts' own tools can resume from: torch 2.6 and newer refuses other objects than plain values.
custom_hooks = [dict(type='PlainStateHook')]

acmix_swin_t = dict(
    type='ACmixSwinTransformer',
    arch='tiny',
    drop_path_rate=0.2,
    out_indices=(0, 1, 2, 3),
    convert_weights=True,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth',
    ),
)
