# MMSegmentation's 160k recipe for ResNets: SGD and polynomial learning rate decay with power 0.9.
_base_ = '../upernet_acmix.py'

model = dict(
    backbone=dict(_delete_=True, type='ACmixResNet', depth=50, norm_eval=False, dilations=(1, 1, 1, 1)),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=0, end=160000)]
