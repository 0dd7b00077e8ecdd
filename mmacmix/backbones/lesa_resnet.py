"""A ResNet with LESA, local-enhanced self-attention, in its last stages (arXiv 2107.05637)."""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS

from ..layers import LESA
from .resnet import ResNet


@MODELS.register_module()
class LESAResNet(ResNet):
    """ResNet backbone with LESA in place of the 3x3 convolutions of the third and fourth stage.

    The first block of the third stage keeps its convolution, whose input has four times as many pixels.

    Args:
        depth: 26, 38, 50 or 101. Default: 50.
        lesa: ``num_heads``, ``position_size`` and ``norm_cfg`` of ``mmacmix.layers.LESA``.
            Default: ``dict(norm_cfg=norm_cfg)``.
        stage_with_lesa: Per stage, whether LESA replaces the 3x3 convolutions, except in the first block of the first
            such stage. Default: ``(False, False, True, True)``.
        resnet: Further arguments of ``mmacmix.backbones.ResNet``.

    Raises:
        ValueError: An argument is out of range, or does not have an entry per stage.
    """

    layer = LESA
    layer_has_norm = True

    def __init__(
        self,
        depth: int = 50,
        lesa: dict = dict(),
        stage_with_lesa: Sequence[bool] = (False, False, True, True),
        **resnet: Any,
    ) -> None:
        super().__init__(depth, lesa, stage_with_lesa, **resnet)

    def _has_layer(self, stage_with_layer: Sequence[bool], stage: int, block: int) -> bool:
        return stage_with_layer[stage] and (block > 0 or any(stage_with_layer[:stage]))
