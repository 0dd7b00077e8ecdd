_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', 'acmix-r50.py']

# Batch normalisation is synchronised across processes, since two images are too few.
sync_bn = 'torch'

model = dict(backbone=dict(_base_.acmix_r50, _delete_=True))
