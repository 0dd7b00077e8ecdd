"""A warm start made better on images: each ACmix layer fits what the plain 3x3 convolution gives."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import ACmix


@torch.no_grad()
def refine(network: nn.Module, plain: nn.Module, images: Tensor, ridge: float = 1e-3) -> dict[str, float]:
    """Fit the shift kernels of a network converted from ``'resnet'``, layer by layer, by least squares.

    A layer's features stay; its kernels become those whose output, on what the layers before make of the images, is
    nearest to the plain network's. In place.

    Args:
        network: An :class:`mmacmix.backbones.ACmixResNet` with the weights of ``convert(..., 'resnet')``.
        plain: The ResNet that they come from, in evaluation mode.
        images: ``(B, 3, H, W)``, normalised as for training. The fit has as many equations as the images have pixels
            at a layer's stride, and 81 unknowns a channel.
        ridge: How strongly kernels hold on to their start, in units of the features' mean square. Default: 1e-3.

    Returns:
        For each layer the norm of what is left to the plain output, relative to that output.
    """
    network.eval()
    errors = {}
    for name, layer in network.named_modules():
        if isinstance(layer, ACmix):
            seen = _call(network, name, images)[0]
            wanted = _call(plain, name, images)[1]
            errors[name] = _fit(layer, seen, wanted, ridge)
    return errors


def _call(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of a network's layer."""
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        kept.append((inputs[0], output))

    hook = network.get_submodule(name).register_forward_hook(keep)
    try:
        network(images)
    finally:
        hook.remove()
    return kept[0]


def _fit(layer: ACmix, seen: Tensor, wanted: Tensor, ridge: float) -> float:
    path = layer.shift_conv
    kernels = path.weight.view(-1, path.num_heads, *path.weight.shape[1:])  # head_dim, head, feature, k, k
    features = path.features(seen, *layer.joined_projections()).double()
    side, unknowns = layer.kernel_size[0], kernels[0, 0].numel()
    patches = F.unfold(features, side, layer.dilation, layer.padding, layer.stride).unflatten(1, (-1, unknowns))
    # Channel d * heads + h.
    targets = wanted.double().flatten(2).unflatten(1, (-1, path.num_heads))
    moments = torch.einsum('bdup,bdvp->duv', patches, patches)
    crossed = torch.einsum('bdup,bdhp->duh', patches, targets)
    start = kernels.double().flatten(2).transpose(1, 2)
    hold = ridge * moments.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)[:, None, None]
    solved = torch.linalg.solve(moments + hold * torch.eye(unknowns, dtype=torch.float64), crossed + hold * start)
    path.weight.copy_(solved.transpose(1, 2).reshape(path.weight.shape))
    left = torch.einsum('bdup,duh->bdhp', patches, solved) - targets
    return (left.norm() / targets.norm()).item()
