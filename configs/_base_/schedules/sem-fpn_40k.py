# Semantic FPN's recipe for PVT on ADE20K: batch 32, on 8 GPUs with 4 images each.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=40000)]
auto_scale_lr = dict(enable=False, base_batch_size=32)
