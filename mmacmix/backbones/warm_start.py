"""ACmix-ResNet from a plain ResNet and images: each ACmix layer fits what the plain 3x3 convolution gives."""

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.keys import without_backbone_prefix
from ..checkpoints.resnet import CLASSIFIER
from ..errors import UserError
from ..layers import ACmix
from ..ops import feature_projection
from .acmix_resnet import ACmixResNet


def refined(
    plain: dict[str, Tensor], converted: dict[str, Tensor], images: Tensor
) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
    """Refine what ``convert(plain, 'resnet')`` gives.

    Args:
        plain: State dict of a plain ResNet.
        converted: What it became.
        images: ``(B, 3, H, W)``, normalised as for training.

    Returns:
        The refined state dict, and what ``refine`` returns.

    Raises:
        UserError: It is no such state dict, or no depth of ACmix-ResNet has this many blocks.
    """
    plain = {name: tensor for name, tensor in without_backbone_prefix(plain).items() if not name.startswith(CLASSIFIER)}
    arguments = _arguments(plain)
    network = ACmixResNet(**arguments)
    network.load_state_dict(converted)
    truth = ACmixResNet(**arguments, stage_with_acmix=(False,) * 4).eval()
    truth.load_state_dict(plain)
    errors = refine(network, truth, images)
    return network.state_dict(), errors


@torch.no_grad()
def refine(network: nn.Module, plain: nn.Module, images: Tensor, ridge: float = 1e-3) -> dict[str, tuple[float, float]]:
    """Fit the shift kernels of a network converted from ``'resnet'``, layer by layer, by least squares.

    A layer's features stay; its kernels become those whose output, on what the layers before make of the images, is
    nearest to the plain network's. In place.

    Args:
        network: An ``mmacmix.backbones.ACmixResNet`` with the weights of ``convert(..., 'resnet')``.
        plain: The ResNet that they come from, in evaluation mode.
        images: ``(B, 3, H, W)``, normalised as for training. The fit has as many equations as the images have pixels
            at a layer's stride, and 81 unknowns a channel.
        ridge: How strongly kernels hold on to their start, in units of the features' mean square. Default: 1e-3.

    Returns:
        For each layer the norm of what is left to the plain output, relative to that output, before and after.
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


def _fit(layer: ACmix, seen: Tensor, wanted: Tensor, ridge: float) -> tuple[float, float]:
    path = layer.shift_conv
    kernels = path.weight.view(-1, path.num_heads, *path.weight.shape[1:])  # head_dim, head, feature, k, k
    weight, bias = feature_projection(*layer.joined_projections(), path.mixing, path.mixing_bias)
    features = F.conv2d(seen, weight[..., None, None], bias).double()
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
    left = [torch.einsum('bdup,duh->bdhp', patches, each) - targets for each in (start, solved)]
    before, after = ((each.norm() / targets.norm()).item() for each in left)
    return before, after


def _arguments(plain: dict[str, Tensor]) -> dict:
    """Those of the ``mmacmix.backbones.ACmixResNet`` that a plain ResNet's state dict is for."""
    blocks = tuple(sum(f'layer{stage}.{block}.conv1.weight' in plain for block in range(99)) for stage in range(1, 5))
    depths = {blocks: depth for depth, (_, blocks) in ACmixResNet.arch_settings.items()}
    if blocks not in depths:
        raise UserError(f'no depth of {list(depths.values())} has {blocks} bottlenecks in its stages')
    norm = next(name.split('.')[2] for name in plain if re.match(r'layer1\.0\.[bgi]n1\.', name))
    return dict(
        depth=depths[blocks],
        base_channels=len(plain['layer1.0.conv1.weight']),
        stem_channels=plain['layer1.0.conv1.weight'].shape[1],
        deep_stem='stem.0.weight' in plain,
        norm_cfg=dict(bn1=dict(type='BN'), in1=dict(type='IN', affine=True), gn1=dict(type='GN', num_groups=32))[norm],
    )
