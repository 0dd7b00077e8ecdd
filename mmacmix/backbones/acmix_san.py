"""ACmix-SAN: the patchwise self-attention network with ACmix (arXiv 2111.14556, table 2; SAN: arXiv 2004.13621)."""

from collections.abc import Iterator, Sequence

from mmcv.cnn import build_norm_layer
from mmengine.model import ModuleList, Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import PatchwiseACmix
from ..layers.arguments import check_choice, check_entries
from ..ops import check_integers, check_window
from .base import BackboneBlock, BaseBackbone


class SANBlock(BackboneBlock):
    """Pre-activation residual block: ACmix to a quarter of the channels, then a 1x1 convolution.

    Args:
        channels: Channels of the input and the output.
        attention_kernel_size: Side of the attention window.
        acmix: Further arguments of ``mmacmix.layers.PatchwiseACmix``.
        norm_cfg: Normalisation layers.
        with_cp: Recompute activations in backward to save memory.
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
        out = self.attn(self.relu(self.norm1(x)))
        return x + self.conv(self.relu(self.norm2(out)))


@MODELS.register_module()
class ACmixSAN(BaseBackbone):
    """ACmix-SAN backbone.

    Five stages, each after 2x2 pooling, whose patchwise attention is ``mmacmix.layers.PatchwiseACmix``. A
    reconstruction: the authors published size and ImageNet accuracy, but neither code nor weights.

    Args:
        depth: 10, 15 or 19.
        in_channels: Channels of the image. Default: 3.
        base_channels: Channels of the first stage, a multiple of 32; the later stages have 4, 8, 16 and 32 times as
            many. Default: 64.
        kernel_sizes: Side of the attention windows of each stage. Default: ``(3, 7, 7, 7, 7)``.
        out_indices: Stages whose output is returned; stage s has stride ``2 ** (s + 1)``. Default: ``(1, 2, 3, 4)``.
        acmix: ``num_heads``, ``share``, ``rates``, ``learn_rates`` and ``shift_form`` of the layers. Default: none.
        frozen_stages: Number of stages to freeze together with the stem; 0 freezes the stem alone, -1 nothing.
            Default: -1.
        norm_cfg: Normalisation layers. Default: ``dict(type='BN', requires_grad=True)``.
        norm_eval: Keep batch normalisation in evaluation mode during training. Training from scratch needs False:
            attention weights and values are both linear in a block's input, so activations grow quadratically
            without normalisation. Default: True.
        with_cp: Recompute each block's activations in backward to save memory. Default: False.
        init_cfg: MMEngine initialisation; None stands for Kaiming's normal distribution for convolutions and 1 for
            the scale of normalisation layers. Default: None.

    Raises:
        ValueError: An argument is out of range, or does not have an entry per stage.
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
        depths = self.arch_settings[depth]
        check_integers(base_channels=base_channels)
        check_entries(len(depths), kernel_sizes=kernel_sizes)
        for kernel_size in kernel_sizes:
            check_window(kernel_size, name='kernel_sizes')
        super().__init__(len(depths), in_channels, out_indices, frozen_stages, norm_eval, init_cfg=init_cfg)
        self.stem = Sequential(
            nn.Conv2d(in_channels, base_channels, 1, bias=False),
            build_norm_layer(norm_cfg, base_channels)[1],
            nn.ReLU(),
        )
        self.stages = ModuleList()
        channels = base_channels
        for blocks, kernel_size, factor in zip(depths, kernel_sizes, (1, 4, 8, 16, 32), strict=False):
            width = base_channels * factor
            self.stages.append(
                Sequential(
                    nn.MaxPool2d(2, ceil_mode=True),
                    nn.Conv2d(channels, width, 1, bias=False),
                    *(SANBlock(width, kernel_size, acmix, norm_cfg, with_cp) for _ in range(blocks)),
                    build_norm_layer(norm_cfg, width)[1],
                    nn.ReLU(),
                )
            )
            channels = width
        self.freeze()

    def _forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *self.stages[: self.frozen_stages]]
