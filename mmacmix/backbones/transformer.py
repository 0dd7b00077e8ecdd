"""The parts that the transformer backbones share. Inside them maps are ``(B, H, W, C)``."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import is_exporting
from .base import BackboneBlock


class PatchProjection(BaseModule):
    """Project non-overlapping patches to single pixels; pixels of incomplete patches are dropped.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        patch_size: Side of a patch in pixels.
        norm_cfg: Normalisation of the output, or None.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, channels, patch_size, patch_size)
        self.norm = build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, H // patch_size, W // patch_size, channels)``."""
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class TransformerBlock(BackboneBlock):
    """Pre-norm transformer block: attention, then an MLP, each with a residual connection and stochastic depth."""

    def __init__(
        self,
        attention: nn.Module,
        channels: int,
        hidden_channels: int,
        drop_path_rate: float,
        drop_rate: float,
        act_cfg: dict,
        norm_cfg: dict,
        with_cp: bool,
    ) -> None:
        super().__init__(with_cp)
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.attn = attention
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.ffn = nn.Sequential(
            nn.Linear(channels, hidden_channels),
            build_activation_layer(act_cfg),
            nn.Dropout(drop_rate),
            nn.Linear(hidden_channels, channels),
            nn.Dropout(drop_rate),
        )

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self._mlp(self.norm2(x)))

    def _mlp(self, x: Tensor) -> Tensor:
        if not is_exporting():
            return self.ffn(x)
        # onnxruntime's 1x1 convolutions are faster than its products with a bias.
        x = x.permute(0, 3, 1, 2)
        for layer in self.ffn:
            is_linear = isinstance(layer, nn.Linear)
            x = F.conv2d(x, layer.weight[..., None, None], layer.bias) if is_linear else layer(x)
        return x.permute(0, 2, 3, 1)


def resized(embedding: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Interpolate a position embedding ``(1, C, h, w)`` to the height and width ``size``."""
    return embedding if embedding.shape[2:] == size else F.interpolate(embedding, size=size, mode=mode)


def fit_norm(state_dict: dict[str, Tensor], name: str, norm: nn.Module | None) -> None:
    """Add the parameters of ``norm`` that a checkpoint lacks, or remove them if the network has no such layer."""
    for leaf in ('weight', 'bias'):
        if norm is None:
            state_dict.pop(f'{name}.{leaf}', None)
        else:
            state_dict.setdefault(f'{name}.{leaf}', getattr(norm, leaf).detach())
