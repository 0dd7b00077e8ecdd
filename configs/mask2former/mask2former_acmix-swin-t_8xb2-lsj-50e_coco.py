_base_ = [
    'mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py',
    '../_base_/models/acmix-swin-t.py',
    '../_base_/schedules/transformer-head_swin-t.py',
]

model = dict(backbone=dict(_base_.acmix_swin_t, _delete_=True, drop_path_rate=0.3))
optim_wrapper = dict(paramwise_cfg=dict(_base_.paramwise_cfg, _delete_=True))
