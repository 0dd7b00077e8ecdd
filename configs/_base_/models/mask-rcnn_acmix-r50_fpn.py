_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

custom_imports = dict(imports=['mmacmix'], allow_failed_imports=False)

# No ImageNet weights of an ACmix-ResNet were ever published. So nothing is frozen and batch normalisation learns; with
# several processes it shares its statistics, since two images are too few.
sync_bn = 'torch'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ACmixResNet',
        depth=50,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        acmix=dict(num_heads=4, attention_kernel_size=7),
    )
)
