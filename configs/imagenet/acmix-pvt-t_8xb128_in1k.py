# Swin's recipe, since the authors' recipe for PVT is unknown.
_base_ = 'acmix-swin-t_8xb128_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ACmixPyramidVisionTransformer',
        arch='tiny',
        drop_path_rate=0.1,
        out_indices=(3,),
        final_norm=True,
    ),
    head=dict(in_channels=512),
)
