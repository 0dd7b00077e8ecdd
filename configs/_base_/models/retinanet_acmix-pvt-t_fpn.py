_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'acmix-pvt-t.py']

model = dict(
    backbone=dict(_base_.acmix_pvt_t, _delete_=True),
    neck=dict(in_channels=[64, 128, 320, 512], start_level=1, add_extra_convs='on_input'),
)
