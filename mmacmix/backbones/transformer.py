"""The block of the transformer backbones."""

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from .base import BackboneBlock


class TransformerBlock(BackboneBlock):
    """Attention and a two-layer network, each with a normalisation before it and a shortcut around it.

    Args:
        attention: A module from ``(B, H, W, C)`` to the same shape.
        channels: Channels of the input and the output.
        hidden_channels: Channels inside the two-layer network.
        drop_path_rate: Probability of skipping either part for an image in training. Default: 0.
        drop_rate: Dropout in the two-layer network. Default: 0.
        act_cfg: Activation. Default: ``dict(type='GELU')``.
        norm_cfg: Normalisation. Default: ``dict(type='LN')``.
        with_cp: Compute the block again in backward instead of keeping its maps. Default: False.
    """

    def __init__(
        self,
        attention: nn.Module,
        channels: int,
        hidden_channels: int,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool = False,
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
        """Map ``(B, H, W, C)`` to ``(B, H, W, C)``."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))
