"""A ResNet with X-volution in some stages (arXiv 2106.02253)."""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS

from ..layers import XVolution
from .resnet import BasicBlock, ResNet


@MODELS.register_module()
class XVolutionResNet(ResNet):
    """ResNet backbone with X-volution in place of the 3x3 convolutions of the third stage, the paper's best choice.

    Args:
        depth: 26, 34, 38, 50 or 101. In depth 34 both 3x3 convolutions of a block are replaced.
        xvolution: ``shift_distance``, ``directions``, ``relations`` and ``norm_cfg`` of ``mmacmix.layers.XVolution``.
            Default: ``dict(norm_cfg=norm_cfg)``.
        stage_with_xvolution: Per stage, whether X-volution replaces the 3x3 convolutions.
            Default: ``(False, False, True, False)``.
        resnet: Further arguments of ``mmacmix.backbones.ResNet``.

    Raises:
        ValueError: An argument is out of range, or does not have an entry per stage.
    """

    layer = XVolution
    layer_has_norm = True
    arch_settings = {**ResNet.arch_settings, 34: (BasicBlock, (3, 4, 6, 3))}

    def __init__(
        self,
        depth: int,
        xvolution: dict = dict(),
        stage_with_xvolution: Sequence[bool] = (False, False, True, False),
        **resnet: Any,
    ) -> None:
        super().__init__(depth, xvolution, stage_with_xvolution, **resnet)
