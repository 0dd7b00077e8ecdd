"""Plain networks of the host libraries with random weights and statistics."""

import torch


def resnet(depth=50, **arguments):
    """MMDetection's ResNet, in evaluation mode."""
    from mmdet.models.backbones import ResNet

    torch.manual_seed(0)
    network = ResNet(depth, norm_eval=False, **arguments)
    for name, tensor in network.state_dict().items():
        if 'running_var' in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.1)
    network.eval()  # returns None
    return network
