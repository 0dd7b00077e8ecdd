"""Running statistics of batch normalisation, measured on images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def measure_norms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch normalisations to the mean over batches.

    Weights that are copied from another network bring its statistics, which do not fit layers that the other one does
    not have. With ``norm_eval=True``, the default of backbones, training would never correct them.

    Args:
        network: A network that is called with a batch.
        batches: Images ``(B, 3, H, W)``, normalised as for training.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # all batches count alike
    for images in batches:
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


@torch.no_grad()
def unfold_norms(network: nn.Module, images: Tensor) -> None:
    """Give batch normalisations that were folded into convolutions statistics again; outputs do not change.

    Each one gets the mean and the variance of its input, and the scale and bias with which it computes what it did.

    Args:
        network: A network with statistics that change nothing, as ``convert(..., 'open-nsfw')`` gives them.
        images: ``(B, 3, H, W)``, normalised as for training.
    """

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        var, mean = torch.var_mean(inputs[0].double(), (0, 2, 3), correction=0)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_(scale * (norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(bias + scale * norm.running_mean)

    modes = {module: module.training for module in network.modules()}
    network.eval()
    hooks = [
        module.register_forward_pre_hook(measure) for module in network.modules() if isinstance(module, _BatchNorm)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    for module, mode in modes.items():
        module.training = mode
