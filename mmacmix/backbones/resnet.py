"""ResNets in some of whose stages a layer of this package stands in place of the 3x3 convolutions."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.utils.checkpoint
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from ..layers import MixingLayer
from ..ops import check_choice, check_entries, check_integer_entries, check_integers, contiguous
from .pretrained import check_pretrained
from .stages import check_images, check_stages, fix_statistics

#: Arguments of a layer that its place in the network decides.
DECIDED = {'in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'bias'}


class Block(BaseModule):
    """Convolutions, each with its normalisation behind, and the shortcut.

    Args:
        in_channels: Channels of the input.
        channels: The output has ``channels * expansion``.
        stride: Default: 1.
        dilation: Default: 1.
        conv: Makes the 3x3 convolutions, or what stands in their place. Default: ``torch.nn.Conv2d``.
        norm_cfg: Normalisation layer. Default: ``dict(type='BN')``.
        with_cp: Compute the block again in backward instead of keeping its maps. Default: False.
        init_cfg: MMEngine initialisation. Default: None.
    """

    expansion: int

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        conv: Callable[..., nn.Module] = nn.Conv2d,
        norm_cfg: dict = dict(type='BN'),
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp
        out_channels = channels * self.expansion
        conv = partial(conv, kernel_size=3, padding=dilation, dilation=dilation, bias=False)
        convolutions = self._convolutions(in_channels, channels, stride, conv)
        for index, convolution in enumerate(convolutions, 1):
            self.add_module(f'conv{index}', convolution)
        self.norm_names = [
            _add_norm(self, norm_cfg, convolution.out_channels, index)
            for index, convolution in enumerate(convolutions, 1)
        ]
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                build_norm_layer(norm_cfg, out_channels)[1],
            )

    def _convolutions(
        self, in_channels: int, channels: int, stride: int, conv: Callable[..., nn.Module]
    ) -> list[nn.Module]:
        raise NotImplementedError

    @property
    def last_norm(self) -> nn.Module:
        """The last normalisation layer, whatever its type calls it."""
        return getattr(self, self.norm_names[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels * expansion, ceil(H / stride), ceil(W / stride))``."""
        if self.with_cp and x.requires_grad:
            return torch.utils.checkpoint.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        out = x
        for index, name in enumerate(self.norm_names, 1):
            out = getattr(self, name)(getattr(self, f'conv{index}')(out))
            if index < len(self.norm_names):
                out = self.relu(out)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class BasicBlock(Block):
    """Two 3x3 convolutions, the first of which has the stride."""

    expansion = 1

    def _convolutions(
        self, in_channels: int, channels: int, stride: int, conv: Callable[..., nn.Module]
    ) -> list[nn.Module]:
        return [conv(in_channels, channels, stride=stride), conv(channels, channels)]


class Bottleneck(Block):
    """1x1, 3x3 with the stride, 1x1."""

    expansion = 4

    def _convolutions(
        self, in_channels: int, channels: int, stride: int, conv: Callable[..., nn.Module]
    ) -> list[nn.Module]:
        return [
            nn.Conv2d(in_channels, channels, 1, bias=False),
            conv(channels, channels, stride=stride),
            nn.Conv2d(channels, channels * self.expansion, 1, bias=False),
        ]


class ResNet(BaseModule):
    """A ResNet with the stride in the 3x3 convolutions, and a layer of this package in their place in some stages.

    The base of ``ACmixResNet``, ``XVolutionResNet`` and ``LESAResNet``. Arguments that it shares with MMDetection's
    ResNet have the same meaning and default.

    Args:
        depth: One of ``arch_settings``.
        layer_args: Arguments of the layer.
        stage_with_layer: Whether each stage has the layer; the others keep plain 3x3 convolutions.
        in_channels: Channels of the image. Default: 3.
        stem_channels: Channels of the stem; None stands for ``base_channels``. Default: None.
        base_channels: Channels of the first stage's 3x3 convolutions. Default: 64.
        num_stages: Stages, 1 to 4. Default: 4.
        strides: Stride of each stage. Default: ``(1, 2, 2, 2)``.
        dilations: Dilation of each stage. Default: ``(1, 1, 1, 1)``.
        out_indices: Stages whose output is returned. Default: ``(0, 1, 2, 3)``.
        deep_stem: Three 3x3 convolutions instead of one 7x7. Default: False.
        frozen_stages: Stages that do not train, with the stem; 0 freezes the stem alone, -1 nothing. Default: -1.
        norm_cfg: Normalisation layers. Default: ``dict(type='BN', requires_grad=True)``.
        norm_eval: Keep the statistics of batch normalisation fixed while training. Default: True.
        with_cp: Compute each block again in backward instead of keeping its maps. Default: False.
        zero_init_residual: Start every block as its shortcut. Default: True.
        init_cfg: MMEngine initialisation; None starts convolutions with Kaiming's normal distribution and
            normalisation layers at 1. Default: None.

    Raises:
        ValueError: There is no such depth, or an argument is out of range, or does not have one entry a stage.
    """

    layer: type[MixingLayer]
    layer_has_norm = False  # which is the network's, unless ``layer_args`` have another
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
        check_integers(in_channels=in_channels, base_channels=base_channels)
        stem_channels = base_channels if stem_channels is None else stem_channels
        check_integers(2 if deep_stem else 1, stem_channels=stem_channels)
        check_integer_entries(num_stages, strides=strides, dilations=dilations)
        name = self.layer.__name__.lower()
        check_entries(num_stages, **{f'stage_with_{name}': stage_with_layer})
        if not isinstance(layer_args, dict) or DECIDED & layer_args.keys():
            raise ValueError(f'{name} must be a dict without {", ".join(sorted(DECIDED))}, got {layer_args!r}')
        if self.layer_has_norm:
            layer_args = dict(norm_cfg=norm_cfg) | layer_args
        check_stages(num_stages, out_indices, frozen_stages)
        super().__init__(
            init_cfg
            or [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        )
        self.in_channels = in_channels
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        channels = stem_channels
        self._make_stem(in_channels, channels, deep_stem, norm_cfg)
        start_as_shortcut = dict(type='Constant', val=0, override=dict(name='last_norm'))
        self.res_layers = []
        block_type, depths = self.arch_settings[depth]
        for stage, blocks in enumerate(depths[:num_stages]):
            width = base_channels * 2**stage
            layer = Sequential()
            for block in range(blocks):
                has_layer = self._has_layer(stage_with_layer, stage, block)
                layer.append(
                    block_type(
                        channels,
                        width,
                        stride=strides[stage] if block == 0 else 1,
                        dilation=dilations[stage],
                        conv=partial(self.layer, **layer_args) if has_layer else nn.Conv2d,
                        norm_cfg=norm_cfg,
                        with_cp=with_cp,
                        init_cfg=start_as_shortcut if zero_init_residual else None,
                    )
                )
                channels = width * block_type.expansion
            self.res_layers.append(f'layer{stage + 1}')
            self.add_module(self.res_layers[-1], layer)
        self._freeze()

    def _has_layer(self, stage_with_layer: Sequence[bool], stage: int, block: int) -> bool:
        """Whether a block has the layer."""
        return stage_with_layer[stage]

    def _make_stem(self, in_channels: int, channels: int, deep: bool, norm_cfg: dict) -> None:
        """One 7x7 convolution, or three 3x3 ones, and the pooling: a quarter of the image's size."""
        if deep:
            layers, widths = [], (in_channels, channels // 2, channels // 2, channels)
            for index in range(3):
                layers += [
                    nn.Conv2d(
                        widths[index], widths[index + 1], 3, stride=2 if index == 0 else 1, padding=1, bias=False
                    ),
                    build_norm_layer(norm_cfg, widths[index + 1])[1],
                    nn.ReLU(inplace=True),
                ]
            self.stem = Sequential(*layers)
            self._stem = ['stem']
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            self._stem = ['conv1', _add_norm(self, norm_cfg, channels, 1), 'relu']
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to one map ``(B, C, h, w)`` an entry of ``out_indices``.

        The maps have the images' memory format; in between all is channels_last, which the layers work in.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape.
        """
        check_images(x, self.in_channels)
        memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        x = x.contiguous(memory_format=torch.channels_last)
        for name in self._stem:
            x = getattr(self, name)(x)
        x = self.maxpool(x)
        outs = []
        for index, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outs.append(contiguous(x, memory_format))
        return tuple(outs)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says.

        Raises:
            ValueError: Nothing in the checkpoint of a ``Pretrained`` one fits.
        """
        check_pretrained(self)
        super().init_weights()

    def train(self, mode: bool = True) -> 'ResNet':
        """Switch between training and evaluation; frozen stages and fixed statistics stay as they are."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            fix_statistics(self)
        return self

    def _freeze(self) -> None:
        frozen = self._stem if self.frozen_stages >= 0 else []
        for name in [*frozen, *self.res_layers[: max(self.frozen_stages, 0)]]:
            getattr(self, name).eval().requires_grad_(False)


def _add_norm(module: nn.Module, norm_cfg: dict, channels: int, index: int) -> str:
    """Add a normalisation layer under the name that its type has in the hosts' ResNet (``bn1``); that name."""
    name, norm = build_norm_layer(norm_cfg, channels, postfix=index)
    module.add_module(name, norm)
    return name
