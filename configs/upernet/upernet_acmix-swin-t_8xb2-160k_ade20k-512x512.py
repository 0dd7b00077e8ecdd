_base_ = '../upernet_acmix.py'
