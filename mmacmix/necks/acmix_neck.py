"""ACmix, or another layer of this package, between a neck and its heads."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers.arguments import check_without
from ..ops import check_integers, is_integer
from .building import build_layer


@MODELS.register_module()
class ACmixNeck(BaseModule):
    """One layer on each chosen map of a neck, such as FPN or PAFPN.

    MMDetection and MMSegmentation run a list of necks one after the other, so a config appends this one:
    ``neck=[dict(type='FPN', ...), dict(type='ACmixNeck', in_channels=[256] * 5)]``.

    With ``residual``, each output is ``x + residual_scale * layer(x)``, with one learned scale per channel. The scales
    start at 0: the network starts as the network without this neck.

    Args:
        in_channels: Channels of each map that the neck before this one returns.
        levels: Indices of the maps that get a layer, 0 for the first; the others pass through. None stands for all.
            Default: None.
        layer: Config of the layer: ``ACmix``, ``XVolution``, ``LESA``, or another registered module that is built from
            ``in_channels`` and keeps the shape of its input. Default: ``dict(type='ACmix')``.
        residual: Add the layer's scaled output to its input, instead of replacing it. Default: True.
        init_cfg: MMEngine initialisation; None keeps that of the layers. Default: None.

    Raises:
        ValueError: An argument is out of range, or the maps are not as many as ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        levels: Sequence[int] | None = None,
        layer: dict = dict(type='ACmix'),
        residual: bool = True,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not isinstance(in_channels, Sequence) or isinstance(in_channels, str) or not in_channels:
            raise ValueError(f'in_channels must be the channels of each map, such as [256] * 5, got {in_channels!r}')
        for channels in in_channels:
            check_integers(in_channels=channels)
        self.in_channels = tuple(in_channels)
        maps = range(len(in_channels))
        levels = maps if levels is None else levels
        if (
            not isinstance(levels, Sequence)
            or not levels
            or not all(is_integer(level) and level in maps for level in levels)
            or len(set(levels)) < len(levels)
        ):
            raise ValueError(f'levels must be different indices from 0 to {len(maps) - 1}, got {levels!r}')
        self.levels = nn.ModuleDict(
            {
                str(level): NeckLayer(channels, layer, residual)
                for level, channels in enumerate(in_channels)
                if level in levels
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map ``(B, C, H, W)``, one per entry of ``in_channels``, to as many of the same shapes."""
        if len(maps) != len(self.in_channels):
            raise ValueError(f'in_channels are those of {len(self.in_channels)} maps, but the neck got {len(maps)}')
        outs = list(maps)
        for level, layer in self.levels.items():
            outs[int(level)] = layer(outs[int(level)])
        return tuple(outs)


class NeckLayer(nn.Module):
    """A layer that keeps the shape of its input, or such a layer times a learned scale plus the input.

    Args:
        channels: Channels of the input.
        layer, residual: See ``ACmixNeck``.

    Raises:
        ValueError: An argument is out of range, or does not fit the others.
    """

    def __init__(self, channels: int, layer: dict = dict(type='ACmix'), residual: bool = True) -> None:
        super().__init__()
        check_without(('in_channels', 'out_channels', 'stride'), layer=layer)
        self.layer = build_layer(layer, in_channels=channels)
        self.residual_scale = nn.Parameter(torch.zeros(channels)) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to the same shape."""
        out = self.layer(x)
        if self.residual_scale is None:
            return out
        return x + out * self.residual_scale.to(out).view(-1, 1, 1)  # to(out), as autocast would return float32
