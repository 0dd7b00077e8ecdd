"""ACmix-ResNet: a bottleneck ResNet whose 3x3 convolutions are ACmix (arXiv 2111.14556, section 5.1)."""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS

from ..layers import ACmix
from .resnet import ResNet


@MODELS.register_module()
class ACmixResNet(ResNet):
    """ResNet backbone with ACmix in place of the 3x3 convolutions.

    Args:
        depth: 26, 38, 50 or 101.
        acmix: ``num_heads``, ``attention_kernel_size``, ``backend``, ``rates``, ``learn_rates`` and ``shift_form`` of
            ``mmacmix.layers.ACmix``. Default: ``dict(num_heads=4, attention_kernel_size=7)``.
        stage_with_acmix: Per stage, whether ACmix replaces the 3x3 convolutions.
            Default: ``(True, True, True, True)``.
        resnet: Further arguments of ``mmacmix.backbones.ResNet``.

    Raises:
        ValueError: An argument is out of range, or does not have an entry per stage.

    Examples:
        >>> import torch
        >>> from mmacmix.backbones import ACmixResNet
        >>> maps = ACmixResNet(depth=26)(torch.rand(1, 3, 96, 128))
        >>> [tuple(m.shape) for m in maps]
        [(1, 256, 24, 32), (1, 512, 12, 16), (1, 1024, 6, 8), (1, 2048, 3, 4)]
    """

    layer = ACmix

    def __init__(
        self,
        depth: int,
        acmix: dict = dict(num_heads=4, attention_kernel_size=7),
        stage_with_acmix: Sequence[bool] = (True, True, True, True),
        **resnet: Any,
    ) -> None:
        super().__init__(depth, acmix, stage_with_acmix, **resnet)
