"""A warm start for ACmix-ResNet that fits each layer to the output of a plain ResNet on images."""

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
    plain: dict[str, Tensor], converted: dict[str, Tensor], images: Tensor, style: str = 'pytorch'
) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
    """Refine the result of ``convert(plain, 'resnet')``.

    Args:
        plain: State dict of a plain ResNet.
        converted: The converted state dict.
        images: ``(B, 3, H, W)``, normalised as for training.
        style: Of the ResNets. Default: ``'pytorch'``.

    Returns:
        The refined state dict, and the errors that ``refine`` returns.

    Raises:
        UserError: No depth of ACmix-ResNet has as many blocks.
    """
    plain = {name: tensor for name, tensor in without_backbone_prefix(plain).items() if not name.startswith(CLASSIFIER)}
    arguments = dict(_arguments(plain), style=style)
    network = ACmixResNet(**arguments)
    network.load_state_dict(converted)
    target = ACmixResNet(**arguments, stage_with_acmix=(False,) * 4).eval()
    target.load_state_dict(plain)
    errors = refine(network, target, images)
    return network.state_dict(), errors


@torch.no_grad()
def refine(network: nn.Module, plain: nn.Module, images: Tensor, ridge: float = 1e-3) -> dict[str, tuple[float, float]]:
    """Fit the shift kernels of a converted network, layer by layer and in place, by ridge regression.

    Each layer sees the output of the layers fitted before it; its target is the output of the plain network. The fit
    has as many equations as the images have pixels at the layer's stride, and 81 unknowns per channel.

    Args:
        network: An ``mmacmix.backbones.ACmixResNet`` with the weights of ``convert(..., 'resnet')``.
        plain: The ResNet that they come from, in evaluation mode.
        images: ``(B, 3, H, W)``, normalised as for training.
        ridge: Penalty on the change of the kernels, relative to the features' mean square. Default: 1e-3.

    Returns:
        For each layer the norm of the residual relative to the target's, before and after.
    """
    network.eval()
    errors = {}
    for name, layer in network.named_modules():
        if isinstance(layer, ACmix):
            x, target = _call(network, name, images)[0], _call(plain, name, images)[1]
            errors[name] = _fit(layer, x, target, ridge)
    return errors


def _call(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of one layer."""
    calls: list[tuple[Tensor, Tensor]] = []
    layer = network.get_submodule(name)
    with layer.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output))):
        network(images)
    return calls[0]


def _fit(layer: ACmix, x: Tensor, target: Tensor, ridge: float) -> tuple[float, float]:
    path = layer.shift_conv
    kernels = path.weight.view(-1, path.num_heads, *path.weight.shape[1:])  # head_dim, head, feature, k, k
    weight, bias = feature_projection(*layer.joined_projections(), path.mixing, path.mixing_bias)
    features = F.conv2d(x, weight[..., None, None], bias).double()
    unknowns = kernels[0, 0].numel()
    patches = F.unfold(features, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    patches = patches.unflatten(1, (-1, unknowns))
    targets = target.double().flatten(2).unflatten(1, (-1, path.num_heads))  # channel d * heads + h
    gram = torch.einsum('bdup,bdvp->duv', patches, patches)
    moment = torch.einsum('bdup,bdhp->duh', patches, targets)
    start = kernels.double().flatten(2).transpose(1, 2)
    penalty = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)[:, None, None]
    solved = torch.linalg.solve(gram + penalty * torch.eye(unknowns, dtype=torch.float64), moment + penalty * start)
    path.weight.copy_(solved.transpose(1, 2).reshape(path.weight.shape))
    residuals = [torch.einsum('bdup,duh->bdhp', patches, each) - targets for each in (start, solved)]
    before, after = ((each.norm() / targets.norm()).item() for each in residuals)
    return before, after


def _arguments(plain: dict[str, Tensor]) -> dict:
    """Arguments of the ``mmacmix.backbones.ACmixResNet`` that corresponds to a plain ResNet."""
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
