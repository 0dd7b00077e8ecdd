"""Backbones as models of timm: importing this module registers them.

With that they are also backbones of what builds on timm, such as transformers' ``TimmBackbone`` and the ``tu-``
encoders of segmentation_models_pytorch.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..backbones import ACmixPyramidVisionTransformer, ACmixResNet, ACmixSwinTransformer
from ..backbones.base import BaseBackbone
from ..versions import check_library

check_library('timm')

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import FeatureInfo, build_model_with_cfg, generate_default_cfgs, register_model

__all__ = ['Classifier', 'Features']  # register_model adds the models

_STAGES = (0, 1, 2, 3)
_SIDE = 256  # of the image on which the sizes of the maps are measured; a multiple of all their strides
_RESNET = partial(ACmixResNet, norm_eval=False)  # nothing is pretrained, so the statistics must be trained
_PVT = partial(ACmixPyramidVisionTransformer, final_norm=True)
_BACKBONES = {
    **{f'acmix_resnet{depth}': (partial(_RESNET, depth=depth), 'conv1') for depth in (26, 38, 50, 101)},
    **{
        f'acmix_swin_{arch}': (partial(ACmixSwinTransformer, arch=arch), 'patch_embed.projection')
        for arch in ('tiny', 'small')
    },
    **{f'acmix_pvt_{arch}': (partial(_PVT, arch=arch), 'patch_embeds.0.projection') for arch in ('tiny', 'small')},
}


class Classifier(nn.Module):
    """A backbone with timm's classification head.

    Its parameters are named as those of MMPretrain's ``ImageClassifier``: ``backbone.*`` and ``head.fc.*``.

    Args:
        build: Class of the backbone, or a function that returns one.
        stages: Stages whose output the backbone returns; the head works on the last one. Default: ``(3,)``.
        num_classes: Classes; 0 leaves out the linear layer. Default: 1000.
        in_chans: Channels of the image. Default: 3.
        global_pool: Pooling of timm, such as ``'avg'`` or ``'max'``; ``''``, which needs ``num_classes=0``, is none.
            Default: ``'avg'``.
        drop_rate: Dropout before the linear layer. Default: 0.
        arguments: Further arguments of the backbone.

    Raises:
        TypeError: The backbone has no such argument.
        ValueError: An argument is out of range, or does not fit the others.
    """

    def __init__(
        self,
        build: Callable[..., BaseBackbone],
        stages: Sequence[int] = _STAGES[-1:],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        **arguments: Any,
    ) -> None:
        super().__init__()
        build = partial(build, in_channels=in_chans, **arguments)
        with torch.device('meta'), torch.no_grad():
            maps = build(out_indices=_STAGES)(torch.empty(1, in_chans, _SIDE, _SIDE))
        #: Channels, stride and name of each stage, as timm expects them.
        self.feature_info = [
            dict(num_chs=each.shape[1], reduction=_SIDE // each.shape[2], module=f'stage{index}')
            for index, each in enumerate(maps)
        ]
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = maps[-1].shape[1]
        self.backbone = build(out_indices=stages)
        _initialize(self.backbone)
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``, or to pooled features without classes."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images to the last stage's output ``(B, num_features, h, w)``."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last stage's output to logits, or with ``pre_logits`` to pooled features ``(B, num_features)``."""
        return self.head(x, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """The linear layer, or an identity without classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer by a new one, and the pooling if ``global_pool`` is given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)


class Features(nn.Module):
    """The backbone of a classifier, for ``features_only=True``; its maps are those of the backbone itself.

    Args:
        model: The classifier.
        out_indices: Stages whose output its backbone returns.
    """

    def __init__(self, model: Classifier, out_indices: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.feature_info = model.backbone, FeatureInfo(model.feature_info, out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images ``(B, in_chans, H, W)`` to one map ``(B, C, h, w)`` per entry of ``out_indices``."""
        return list(self.backbone(x))


def _initialize(backbone: BaseBackbone) -> None:
    """Initialise the weights without MMEngine's log, which has several lines per parameter."""
    if any(parameter.is_meta for parameter in backbone.parameters()):  # weights will be loaded
        return
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        backbone.init_weights()
    finally:
        logger.setLevel(level)


def _register(name: str, build: Callable[..., BaseBackbone]) -> None:
    def create(
        pretrained: bool = False, features_only: bool = False, out_indices: int | Sequence[int] = _STAGES, **arguments
    ) -> nn.Module:
        if not features_only:
            return build_model_with_cfg(partial(Classifier, build), name, pretrained, **arguments)
        if isinstance(out_indices, int):  # the last ones
            out_indices = _STAGES[-out_indices:]
        stages = sorted({index + len(_STAGES) if index < 0 else index for index in out_indices})
        return build_model_with_cfg(
            partial(Classifier, build, stages),
            name,
            pretrained,
            feature_cfg=dict(feature_cls=Features, out_indices=stages),
            features_only=True,
            **arguments,
        )

    create.__name__ = name
    globals()[name] = register_model(create)  # a function of its module, as those of timm are


#: timm's description of each model; none has weights.
default_cfgs = generate_default_cfgs(
    {
        name: dict(
            url='',
            num_classes=1000,
            input_size=(3, 224, 224),
            pool_size=(7, 7),
            crop_pct=0.875,
            interpolation='bicubic',
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            first_conv=f'backbone.{first_conv}',
            classifier='head.fc',
        )
        for name, (_, first_conv) in _BACKBONES.items()
    }
)
for _name, (_build, _) in _BACKBONES.items():
    _register(_name, _build)
