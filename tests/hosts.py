"""Plain networks of the host libraries with random weights and statistics, and the torchvision that they import."""

import importlib.util
import sys
from pathlib import Path

import torch


def find_torchvision():
    """Make torchvision importable for MMPretrain and timm, which import it.

    Beside a CPU build of torch, the set-up installs it in a separate folder, since its operators do not load there. The
    tests do not use them.
    """
    if importlib.util.find_spec('torchvision'):
        return
    sys.path.append(str(Path(sys.prefix) / 'torchvision'))
    global _operators  # undefined once nobody holds them
    _operators = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        _operators.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')


def resnet(depth=50, **arguments):
    """MMDetection's ResNet, in evaluation mode."""
    from mmdet.models.backbones import ResNet

    torch.manual_seed(0)
    network = randomize(ResNet(depth, norm_eval=False, **arguments))
    network.eval()  # returns None
    return network


def randomize(network):
    """Give all weights and statistics of a network random values; a new one has residual branches that are zero."""
    for name, tensor in network.state_dict().items():
        if 'running_var' in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.1)
    return network
