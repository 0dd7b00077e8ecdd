# Random weights.
_base_ = '../ablation/both.py'
train_cfg = dict(val_interval=50)
