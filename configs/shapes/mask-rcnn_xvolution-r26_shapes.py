_base_ = './mask-rcnn_acmix-r26_shapes.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='XVolutionResNet',
        depth=26,
        base_channels=32,
        deep_stem=True,
        norm_cfg={{_base_.norm_cfg}},
        norm_eval=False,
        xvolution=dict(norm_cfg=dict(type='BN')),  # can be merged into the convolution
    )
)
