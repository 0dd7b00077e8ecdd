"""ACmix-ResNet: a bottleneck ResNet whose 3x3 convolutions are ACmix (arXiv 2111.14556, section 5.1)."""

from collections.abc import Sequence

import torch
import torch.utils.checkpoint
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import ACmix
from ..ops import check_choice, check_entries, check_integer_entries, check_integers, contiguous
from .pretrained import check_pretrained
from .stages import check_images, check_stages


class Bottleneck(BaseModule):
    """1x1, ACmix or 3x3, 1x1, and the shortcut; the stride is in the middle.

    Args:
        in_channels: Channels of the input.
        channels: Channels between the 1x1 convolutions; the output has ``channels * 4``.
        stride: Default: 1.
        dilation: Default: 1.
        acmix: Arguments of ``mmacmix.layers.ACmix``; None keeps a plain 3x3 convolution. Default: None.
        norm_cfg: Normalisation layer. Default: ``dict(type='BN')``.
        with_cp: Compute the block again in backward instead of keeping its maps. Default: False.
        init_cfg: MMEngine initialisation. Default: None.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        acmix: dict | None = None,
        norm_cfg: dict = dict(type='BN'),
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        middle = dict(kernel_size=3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.conv2 = (
            nn.Conv2d(channels, channels, **middle) if acmix is None else ACmix(channels, channels, **middle, **acmix)
        )
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm_names = [
            _add_norm(self, norm_cfg, width, index) for index, width in enumerate((channels, channels, out_channels), 1)
        ]
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                build_norm_layer(norm_cfg, out_channels)[1],
            )

    @property
    def norm3(self) -> nn.Module:
        """The last normalisation layer, whatever its type calls it."""
        return getattr(self, self.norm_names[2])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, channels * 4, ceil(H / stride), ceil(W / stride))``."""
        if self.with_cp and x.requires_grad:
            return torch.utils.checkpoint.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        norm1, norm2, norm3 = (getattr(self, name) for name in self.norm_names)
        out = self.relu(norm1(self.conv1(x)))
        out = self.relu(norm2(self.conv2(out)))
        out = norm3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


@MODELS.register_module()
class ACmixResNet(BaseModule):
    """ACmix-ResNet backbone.

    A ResNet of bottlenecks with the stride in the 3x3 convolution, and ``mmacmix.layers.ACmix`` in its place.
    Arguments that it shares with MMDetection's ResNet have the same meaning and default.

    Args:
        depth: 26, 38, 50 or 101.
        in_channels: Channels of the image. Default: 3.
        stem_channels: Channels of the stem; None stands for ``base_channels``. Default: None.
        base_channels: Channels of the first stage's bottlenecks. Default: 64.
        num_stages: Stages, 1 to 4. Default: 4.
        strides: Stride of each stage. Default: ``(1, 2, 2, 2)``.
        dilations: Dilation of each stage. Default: ``(1, 1, 1, 1)``.
        out_indices: Stages whose output is returned. Default: ``(0, 1, 2, 3)``.
        acmix: ``num_heads``, ``attention_kernel_size``, ``backend``, ``rates``, ``learn_rates`` and ``shift_form`` of
            ACmix.
            Default: ``dict(num_heads=4, attention_kernel_size=7)``.
        stage_with_acmix: Whether each stage has ACmix; the others keep plain 3x3 convolutions.
            Default: ``(True, True, True, True)``.
        deep_stem: Three 3x3 convolutions instead of one 7x7. Default: False.
        frozen_stages: Stages that do not train, with the stem; 0 freezes the stem alone, -1 nothing. Default: -1.
        norm_cfg: Normalisation layers. Default: ``dict(type='BN', requires_grad=True)``.
        norm_eval: Keep the statistics of batch normalisation fixed while training. Default: True.
        with_cp: Compute each block again in backward instead of keeping its maps. Default: False.
        zero_init_residual: Start every block as its shortcut. Default: True.
        init_cfg: MMEngine initialisation; None starts convolutions with Kaiming's normal distribution and
            normalisation layers at 1. The shifts of the convolution path stay. Default: None.

    Raises:
        ValueError: There is no such depth, or an argument is out of range, or does not have one entry a stage.

    Examples:
        >>> import torch
        >>> from mmacmix.backbones import ACmixResNet
        >>> maps = ACmixResNet(depth=26)(torch.rand(1, 3, 96, 128))
        >>> [tuple(m.shape) for m in maps]
        [(1, 256, 24, 32), (1, 512, 12, 16), (1, 1024, 6, 8), (1, 2048, 3, 4)]
    """

    arch_settings = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        acmix: dict = dict(num_heads=4, attention_kernel_size=7),
        stage_with_acmix: Sequence[bool] = (True, True, True, True),
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
        check_entries(num_stages, stage_with_acmix=stage_with_acmix)
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
        start_as_shortcut = dict(type='Constant', val=0, override=dict(name='norm3'))
        self.res_layers = []
        for stage, blocks in enumerate(self.arch_settings[depth][:num_stages]):
            width = base_channels * 2**stage
            layer = Sequential()
            for block in range(blocks):
                layer.append(
                    Bottleneck(
                        channels,
                        width,
                        stride=strides[stage] if block == 0 else 1,
                        dilation=dilations[stage],
                        acmix=acmix if stage_with_acmix[stage] else None,
                        norm_cfg=norm_cfg,
                        with_cp=with_cp,
                        init_cfg=start_as_shortcut if zero_init_residual else None,
                    )
                )
                channels = width * Bottleneck.expansion
            self.res_layers.append(f'layer{stage + 1}')
            self.add_module(self.res_layers[-1], layer)
        self._freeze()

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

        The maps have the images' memory format; in between all is channels_last, which ACmix works in.

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

    def train(self, mode: bool = True) -> 'ACmixResNet':
        """Switch between training and evaluation; frozen stages and fixed statistics stay as they are."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
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
