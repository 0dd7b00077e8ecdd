"""ResNets with a layer of this package in place of the 3x3 convolutions of some stages."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import Sequential
from torch import Tensor, nn

from ..layers import MixingLayer
from ..layers.arguments import check_choice, check_entries, check_integer_entries
from ..ops import check_integers, contiguous
from .base import BackboneBlock, BaseBackbone

#: Arguments of a layer that its place in the network decides.
DECIDED = {'in_channels', 'out_channels', 'kernel_size', 'stride', 'padding', 'dilation', 'groups', 'bias'}


class Block(BackboneBlock):
    """Convolutions, each followed by its normalisation, and a shortcut.

    Args:
        in_channels: Channels of the input.
        channels: The output has ``channels * expansion``.
        stride: Default: 1.
        dilation: Default: 1.
        conv: Makes the 3x3 convolutions or what replaces them. Default: ``torch.nn.Conv2d``.
        norm_cfg: Normalisation. Default: ``dict(type='BN')``.
        with_cp: Compute the block's maps again in backward instead of keeping them. Default: False.
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
        super().__init__(with_cp, init_cfg)
        conv = partial(conv, kernel_size=3, padding=dilation, dilation=dilation, bias=False)
        self._make_convs(in_channels, channels, stride, conv)
        convs = dict(self.named_children())
        #: See ``mmacmix.deploy.fuse``.
        self.conv_norm_pairs = [
            (name, _add_norm(self, norm_cfg, each.out_channels, index))
            for index, (name, each) in enumerate(convs.items(), 1)
        ]
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        out_channels = channels * self.expansion
        if stride != 1 or in_channels != out_channels:
            self.downsample = Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                build_norm_layer(norm_cfg, out_channels)[1],
            )

    def _make_convs(self, in_channels: int, channels: int, stride: int, conv: Callable[..., nn.Module]) -> None:
        raise NotImplementedError

    def _norm(self, index: int) -> nn.Module:
        """The normalisation after convolution ``index``; ``bn1``, ``in1`` or ``gn1`` by its type, as in the hosts."""
        return getattr(self, self.conv_norm_pairs[index - 1][1])

    @property
    def norm1(self) -> nn.Module:
        return self._norm(1)

    @property
    def norm2(self) -> nn.Module:
        return self._norm(2)

    @property
    def last_norm(self) -> nn.Module:
        return self._norm(0)

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class BasicBlock(Block):
    """Two 3x3 convolutions; the first one has the stride."""

    expansion = 1

    def _make_convs(self, in_channels: int, channels: int, stride: int, conv: Callable[..., nn.Module]) -> None:
        self.conv1 = conv(in_channels, channels, stride=stride)
        self.conv2 = conv(channels, channels)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += self._shortcut(x)
        return self.relu(out)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 has the stride."""

    expansion = 4

    def _make_convs(self, in_channels: int, channels: int, stride: int, conv: Callable[..., nn.Module]) -> None:
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.conv2 = conv(channels, channels, stride=stride)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)

    @property
    def norm3(self) -> nn.Module:
        return self._norm(3)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        out += self._shortcut(x)
        return self.relu(out)


class ResNet(BaseBackbone):
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
        super().__init__(
            num_stages,
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
        self.freeze()

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
            self.conv_norm_pairs, self._stem = [], ['stem']
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            self.conv_norm_pairs = [('conv1', _add_norm(self, norm_cfg, channels, 1))]
            self._stem = [*self.conv_norm_pairs[0], 'relu']
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to one map ``(B, C, h, w)`` an entry of ``out_indices``.

        The maps have the images' memory format; in between all is channels_last, which the layers work in.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape.
        """
        self.check_images(x)
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

    def frozen(self) -> list[nn.Module]:
        return [getattr(self, name) for name in [*self._stem, *self.res_layers[: self.frozen_stages]]]


def _add_norm(module: nn.Module, norm_cfg: dict, channels: int, index: int) -> str:
    """Add a normalisation under the name that it has in the hosts' ResNet, such as ``bn1``, and return that name."""
    name, norm = build_norm_layer(norm_cfg, channels, postfix=index)
    module.add_module(name, norm)
    return name
