_base_ = '../maskrcnn_acmix.py'
