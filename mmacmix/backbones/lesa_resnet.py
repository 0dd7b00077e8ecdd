"""A ResNet some of whose 3x3 convolutions are LESA (arXiv 2107.05637)."""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS

from ..layers import LESA
from .resnet import ResNet


@MODELS.register_module()
class LESAResNet(ResNet):
    """ResNet backbone with LESA in place of the 3x3 convolutions of the third and fourth stage, but for the first one.

    That one sees the map of the stage before, four times as large.

    Args:
        depth: 26, 38, 50 or 101. Default: 50.
        lesa: ``num_heads``, ``position_size`` and ``norm_cfg`` of ``mmacmix.layers.LESA``.
            Default: ``dict(norm_cfg=norm_cfg)``.
        stage_with_lesa: Whether each stage has LESA; the others, and the first block of the first stage that has it,
            keep plain 3x3 convolutions. Default: ``(False, False, True, True)``.
        resnet: The other arguments of ``mmacmix.backbones.ResNet``.

    Raises:
        ValueError: There is no such depth, or an argument is out of range, or does not have one entry a stage.
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
