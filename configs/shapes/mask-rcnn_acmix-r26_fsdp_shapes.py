# The small Mask R-CNN, shared out over the processes: tools/dist_train.sh starts them.
_base_ = ['mask-rcnn_acmix-r26_shapes.py', '../_base_/fsdp.py']
