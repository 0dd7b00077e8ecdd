# The small Mask R-CNN, sharded across the processes that tools/dist_train.sh starts.
_base_ = ['mask-rcnn_acmix-r26_shapes.py', '../_base_/fsdp.py']
