"""ACmix-SAN: the patchwise self-attention network with ACmix (arXiv 2111.14556, table 2; SAN: arXiv 2004.13621)."""

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmengine.model import ModuleList, Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import PatchwiseACmix
from ..layers.arguments import check_choice, check_entries
from ..ops import check_integers, check_window
from .base import BackboneBlock, BaseBackbone


class SANBlock(BackboneBlock):
    """ACmix and a 1x1 convolution, each with a normalisation before it, and a shortcut.

    Args:
        channels: Channels of the input and the output; a quarter of them in between.
        attention_kernel_size: Side of the attention window.
        acmix: Further arguments of ``mmacmix.layers.PatchwiseACmix``.
        norm_cfg: Normalisation layers.
        with_cp: Compute the block again in backward instead of keeping its maps.
    """

    def __init__(self, channels: int, attention_kernel_size: int, acmix: dict, norm_cfg: dict, with_cp: bool) -> None:
        super().__init__(with_cp)
        middle = channels // 4
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.attn = PatchwiseACmix(channels, middle, attention_kernel_size, norm_cfg=norm_cfg, **acmix)
        self.norm2 = build_norm_layer(norm_cfg, middle)[1]
        self.conv = nn.Conv2d(middle, channels, 1)
        self.relu = nn.ReLU()

    def _forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, H, W)``."""
        out = self.attn(self.relu(self.norm1(x)))
        return x + self.conv(self.relu(self.norm2(out)))


@MODELS.register_module()
class ACmixSAN(BaseBackbone):
    """ACmix-SAN backbone.

    A self-attention network of five stages, each behind 2x2 pooling, whose patchwise attention is
    ``mmacmix.layers.PatchwiseACmix``. A reconstruction: the authors published its size and its accuracy on
    ImageNet, but neither code nor weights.

    Args:
        depth: 10, 15 or 19.
        in_channels: Channels of the image. Default: 3.
        base_channels: Channels of the first stage, a multiple of 32; the others have 4, 8, 16 and 32 times as many.
            Default: 64.
        kernel_sizes: Side of each stage's attention windows. Default: ``(3, 7, 7, 7, 7)``.
        out_indices: Stages whose output is returned; stage s has a step of ``2 ** (s + 1)`` pixels.
            Default: ``(1, 2, 3, 4)``.
        acmix: ``num_heads``, ``share``, ``rates``, ``learn_rates`` and ``shift_form`` of the layers. Default: none.
        frozen_stages: Stages that do not train, with the stem; 0 freezes the stem alone, -1 nothing. Default: -1.
        norm_cfg: Normalisation layers. Default: ``dict(type='BN', requires_grad=True)``.
        norm_eval: Keep the statistics of batch normalisation fixed while training. Random weights need False: weights
            and values are linear in a block's input, so that without normalisation it squares what it gets.
            Default: True.
        with_cp: Compute each block again in backward instead of keeping its maps. Default: False.
        init_cfg: MMEngine initialisation; None starts convolutions with Kaiming's normal distribution and
            normalisation layers at 1. Default: None.

    Raises:
        ValueError: There is no such depth, or an argument is out of range, or does not have one entry a stage.
    """

    arch_settings = {10: (2, 1, 2, 4, 1), 15: (3, 2, 3, 5, 2), 19: (3, 3, 4, 6, 3)}

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        base_channels: int = 64,
        kernel_sizes: Sequence[int] = (3, 7, 7, 7, 7),
        out_indices: Sequence[int] = (1, 2, 3, 4),
        acmix: dict = dict(),
        frozen_stages: int = -1,
        norm_cfg: dict = dict(type='BN', requires_grad=True),
        norm_eval: bool = True,
        with_cp: bool = False,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        check_choice(tuple(self.arch_settings), depth=depth)
        blocks = self.arch_settings[depth]
        check_integers(in_channels=in_channels, base_channels=base_channels)
        check_entries(len(blocks), kernel_sizes=kernel_sizes)
        for side in kernel_sizes:
            check_window(side, name='kernel_sizes')
        super().__init__(
            len(blocks),
            in_channels,
            out_indices,
            frozen_stages,
            norm_eval,
            init_cfg=init_cfg,
            default_init=[
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ],
        )
        channels = base_channels
        self.stem = self._embed(in_channels, channels, norm_cfg)
        self.stages = ModuleList()
        for number, kernel_size, factor in zip(blocks, kernel_sizes, (1, 4, 8, 16, 32), strict=False):
            width = base_channels * factor
            self.stages.append(
                Sequential(
                    nn.MaxPool2d(2, ceil_mode=True),
                    nn.Conv2d(channels, width, 1, bias=False),
                    *(SANBlock(width, kernel_size, acmix, norm_cfg, with_cp) for _ in range(number)),
                    build_norm_layer(norm_cfg, width)[1],
                    nn.ReLU(),
                )
            )
            channels = width
        self.freeze()

    @staticmethod
    def _embed(in_channels: int, channels: int, norm_cfg: dict) -> Sequential:
        return Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), build_norm_layer(norm_cfg, channels)[1], nn.ReLU()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to one map ``(B, C, h, w)`` an entry of ``out_indices``.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape.
        """
        self.check_images(x)
        x = self.stem(x)
        outs = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def frozen(self) -> list[nn.Module]:
        return [self.stem, *self.stages[: self.frozen_stages]]
