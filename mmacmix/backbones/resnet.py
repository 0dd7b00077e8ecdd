"""ResNets that replace the 3x3 convolutions of some stages with a layer of this package."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import Sequential
from torch import Tensor, nn

from ..layers import MixingLayer
from ..layers.arguments import check_choice, check_entries, check_integer_entries, check_without
from ..layers.conv_signature import CONV_ARGUMENTS
from ..ops import check_integers, contiguous
from .base import BackboneBlock, BaseBackbone


class Block(BackboneBlock):
    """Base of the residual blocks, from ``in_channels`` to ``channels * expansion``.

    ``conv`` builds the 3x3 convolutions or the layers that replace them. ``style`` matters to bottlenecks alone.
    ``zero_init`` initialises the scale of the last normalisation with 0.
    """

    expansion: int

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilation: int,
        conv: Callable[..., nn.Module],
        style: str,
        norm_cfg: dict,
        with_cp: bool,
        zero_init: bool,
    ) -> None:
        super().__init__(with_cp)
        conv3x3 = partial(conv, kernel_size=3, padding=dilation, dilation=dilation, bias=False)
        self._add_convs(in_channels, channels, stride, conv3x3, style)
        #: For ``mmacmix.deploy.fuse``.
        self.conv_norm_pairs = [
            (name, _add_norm(self, norm_cfg, layer.out_channels, index))
            for index, (name, layer) in enumerate(list(self.named_children()), 1)
        ]
        if zero_init:
            self.init_cfg = dict(type='Constant', val=0, override=dict(name=self.conv_norm_pairs[-1][1]))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        out_channels = channels * self.expansion
        if stride != 1 or in_channels != out_channels:
            self.downsample = Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                build_norm_layer(norm_cfg, out_channels)[1],
            )

    def _add_convs(
        self, in_channels: int, channels: int, stride: int, conv3x3: Callable[..., nn.Module], style: str
    ) -> None:
        raise NotImplementedError

    def _norm(self, index: int) -> nn.Module:
        return getattr(self, self.conv_norm_pairs[index - 1][1])

    norm1 = property(lambda self: self._norm(1))
    norm2 = property(lambda self: self._norm(2))

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class BasicBlock(Block):
    """Two 3x3 convolutions, the first one with the stride."""

    expansion = 1

    def _add_convs(
        self, in_channels: int, channels: int, stride: int, conv3x3: Callable[..., nn.Module], style: str
    ) -> None:
        self.conv1 = conv3x3(in_channels, channels, stride=stride)
        self.conv2 = conv3x3(channels, channels)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += self._shortcut(x)
        return self.relu(out)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 has the stride, or with ``style='caffe'`` the first 1x1."""

    expansion = 4
    norm3 = property(lambda self: self._norm(3))

    def _add_convs(
        self, in_channels: int, channels: int, stride: int, conv3x3: Callable[..., nn.Module], style: str
    ) -> None:
        strides = (stride, 1) if style == 'caffe' else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=strides[0], bias=False)
        self.conv2 = conv3x3(channels, channels, stride=strides[1])
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        out += self._shortcut(x)
        return self.relu(out)


class ResNet(BaseBackbone):
    """Base of ``ACmixResNet``, ``XVolutionResNet`` and ``LESAResNet``.

    Arguments shared with MMDetection's ResNet have the same meaning and default.

    Args:
        depth: A key of ``arch_settings``.
        layer_args: Arguments of the layer.
        stage_with_layer: Per stage, whether the layer replaces the 3x3 convolutions.
        in_channels: Channels of the image. Default: 3.
        stem_channels: Channels of the stem; None stands for ``base_channels``. Default: None.
        base_channels: Channels of the first stage's 3x3 convolutions. Default: 64.
        num_stages: Stages, 1 to 4. Default: 4.
        strides: Stride of each stage. Default: ``(1, 2, 2, 2)``.
        dilations: Dilation of each stage. Default: ``(1, 1, 1, 1)``.
        out_indices: Stages whose output is returned. Default: ``(0, 1, 2, 3)``.
        style: Where bottlenecks have their stride: ``'pytorch'``, in the 3x3 convolution, or ``'caffe'``, in the first
            1x1 convolution, as pretrained weights of Caffe need it. Default: ``'pytorch'``.
        deep_stem: Three 3x3 convolutions instead of one 7x7. Default: False.
        frozen_stages: Number of stages to freeze together with the stem; 0 freezes the stem alone, -1 nothing.
            Default: -1.
        norm_cfg: Normalisation layers. Default: ``dict(type='BN', requires_grad=True)``.
        norm_eval: Keep batch normalisation in evaluation mode during training. Default: True.
        with_cp: Recompute each block's activations in backward to save memory. Default: False.
        zero_init_residual: Initialise each block as the identity. Default: True.
        init_cfg: MMEngine initialisation; None stands for Kaiming's normal distribution for convolutions and 1 for
            the scale of normalisation layers. Default: None.

    Raises:
        ValueError: An argument is out of range, or does not have an entry per stage.
    """

    layer: type[MixingLayer]
    layer_has_norm = False  # if so, the network's norm_cfg is its default
    arch_settings = {
        26: (Bottleneck, (1, 2, 4, 1)),
        38: (Bottleneck, (2, 3, 5, 2)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
    }

    def __init__(
        self,
        depth: int,
        layer_args: dict,
        stage_with_layer: Sequence[bool],
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = 'pytorch',
        deep_stem: bool = False,
        frozen_stages: int = -1,
        norm_cfg: dict = dict(type='BN', requires_grad=True),
        norm_eval: bool = True,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        check_choice(tuple(self.arch_settings), depth=depth)
        check_choice((1, 2, 3, 4), num_stages=num_stages)
        check_choice(('pytorch', 'caffe'), style=style)
        check_integers(base_channels=base_channels)
        stem_channels = base_channels if stem_channels is None else stem_channels
        check_integers(2 if deep_stem else 1, stem_channels=stem_channels)
        check_integer_entries(num_stages, strides=strides, dilations=dilations)
        name = self.layer.__name__.lower()
        check_entries(num_stages, **{f'stage_with_{name}': stage_with_layer})
        check_without(CONV_ARGUMENTS, **{name: layer_args})
        if self.layer_has_norm:
            layer_args = dict(norm_cfg=norm_cfg) | layer_args
        super().__init__(num_stages, in_channels, out_indices, frozen_stages, norm_eval, init_cfg=init_cfg)
        self._add_stem(in_channels, stem_channels, deep_stem, norm_cfg)
        channels = stem_channels
        self.res_layers = []
        block_type, depths = self.arch_settings[depth]
        for stage, blocks in enumerate(depths[:num_stages]):
            width = base_channels * 2**stage
            res_layer = Sequential()
            for block in range(blocks):
                stride = strides[stage] if block == 0 else 1
                conv = (
                    partial(self.layer, **layer_args) if self._has_layer(stage_with_layer, stage, block) else nn.Conv2d
                )
                settings = (dilations[stage], conv, style, norm_cfg, with_cp, zero_init_residual)
                res_layer.append(block_type(channels, width, stride, *settings))
                channels = width * block_type.expansion
            self.res_layers.append(f'layer{stage + 1}')
            self.add_module(self.res_layers[-1], res_layer)
        self.freeze()

    def _has_layer(self, stage_with_layer: Sequence[bool], stage: int, block: int) -> bool:
        return stage_with_layer[stage]

    def _add_stem(self, in_channels: int, channels: int, deep: bool, norm_cfg: dict) -> None:
        """Add one 7x7 convolution, or three 3x3 convolutions, and max pooling; the stride is 4."""
        if deep:
            layers, widths = [], (in_channels, channels // 2, channels // 2, channels)
            for stride, narrow, wide in zip((2, 1, 1), widths, widths[1:], strict=False):
                layers += [
                    nn.Conv2d(narrow, wide, 3, stride=stride, padding=1, bias=False),
                    build_norm_layer(norm_cfg, wide)[1],
                    nn.ReLU(inplace=True),
                ]
            self.stem = Sequential(*layers)
            self.conv_norm_pairs, self._stem = [], ['stem']
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            self.conv_norm_pairs = [('conv1', _add_norm(self, norm_cfg, channels, 1))]
            self.relu = nn.ReLU(inplace=True)
            self._stem = [*self.conv_norm_pairs[0], 'relu']
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def _forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """Compute in channels_last, which the layers are fastest in; outputs have the memory format of the images."""
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=torch.channels_last)
        for name in self._stem:
            x = getattr(self, name)(x)
        x = self.maxpool(x)
        for index, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            yield contiguous(x, memory_format) if index in self.out_indices else x

    def _frozen(self) -> list[nn.Module]:
        return [getattr(self, name) for name in [*self._stem, *self.res_layers[: self.frozen_stages]]]


def _add_norm(module: nn.Module, norm_cfg: dict, channels: int, index: int) -> str:
    """Add a normalisation named as in MMDetection, such as ``bn1``, and return the name."""
    name, norm = build_norm_layer(norm_cfg, channels, postfix=index)
    module.add_module(name, norm)
    return name
