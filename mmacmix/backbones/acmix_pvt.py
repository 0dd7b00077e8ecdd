"""ACmix-PVT: the Pyramid Vision Transformer with ACmix in its attention (arXiv 2111.14556, table 2)."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import SpatialReductionACmix, pad_to_patch
from ..layers.arguments import check_integer_entries, check_probabilities
from ..ops import check_integers
from .base import BaseBackbone
from .transformer import TransformerBlock


class PatchEmbed(BaseModule):
    """Patches of a map become pixels, each with a learned embedding of its place.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        patch_size: Side of a patch in pixels.
        positions: Height and width of the position embedding; it is resized to other maps.
        norm_cfg: Normalisation of the patches.
    """

    def __init__(
        self, in_channels: int, channels: int, patch_size: int, positions: tuple[int, int], norm_cfg: dict
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, channels, patch_size, patch_size)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.position = nn.Parameter(trunc_normal_(torch.empty(1, channels, *positions), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, H // patch_size, W // patch_size, channels)``, sides at least 1."""
        x = self.norm(self.projection(pad_to_patch(x, self.patch_size)).permute(0, 2, 3, 1))
        position = self.position
        if position.shape[2:] != x.shape[1:3]:
            position = F.interpolate(position, size=x.shape[1:3], mode='bilinear')
        return x + position.permute(0, 2, 3, 1)


@MODELS.register_module()
class ACmixPyramidVisionTransformer(BaseBackbone):
    """ACmix-PVT backbone, for images of any size.

    A Pyramid Vision Transformer whose attention is ``mmacmix.layers.SpatialReductionACmix``. A reconstruction:
    the authors published its size and its accuracy on ImageNet, but neither code nor weights. As in PVT, pixels of
    incomplete patches at the bottom and right are left out.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'medium'``, ``'large'``, or a dict of ``depths`` and optionally
            ``embed_dims``, ``num_heads``, ``mlp_ratios`` and ``sr_ratios``, whose defaults are PVT's:
            (64, 128, 320, 512), (1, 2, 5, 8), (8, 8, 4, 4) and (8, 4, 2, 1). Default: ``'tiny'``.
        pretrain_img_size: Side in pixels of the images that the position embeddings are for. Default: 224.
        in_channels: Channels of the image. Default: 3.
        patch_sizes: Side of each stage's patches in pixels of the map before. Default: ``(4, 2, 2, 2)``.
        out_indices: Stages whose output is returned. Default: ``(0, 1, 2, 3)``.
        final_norm: Normalise the last stage's output, as a classifier does. Default: False.
        qkv_bias: Bias of the projections to query, key and value. Default: True.
        drop_rate: Dropout. Default: 0.
        attn_drop_rate: Dropout of attention weights. Default: 0.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0. Default: 0.1.
        acmix: ``rates``, ``learn_rates`` and ``shift_form`` of the layers. Default: none.
        act_cfg: Activation. Default: ``dict(type='GELU')``.
        norm_cfg: Normalisation. Default: ``dict(type='LN', eps=1e-6)``.
        with_cp: Compute each block again in backward instead of keeping its maps. Default: False.
        frozen_stages: Stages that do not train; 0 freezes the first patch embedding alone, -1 nothing. Default: -1.
        convert_weights: The checkpoint of ``init_cfg`` is a plain PVT's, in a layout that
            ``mmacmix.checkpoints.convert`` knows. Default: False.
        init_cfg: MMEngine initialisation; None starts linear layers from a normal distribution of standard deviation
            0.02, convolutions from Kaiming's. Default: None.

    Raises:
        ValueError: An argument is out of range, or does not fit the others.
    """

    can_convert = True
    arch_settings = {
        'tiny': dict(depths=(2, 2, 2, 2)),
        'small': dict(depths=(3, 4, 6, 3)),
        'medium': dict(depths=(3, 4, 18, 3)),
        'large': dict(depths=(3, 8, 27, 3)),
    }
    arch_defaults = dict(
        embed_dims=(64, 128, 320, 512), num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4), sr_ratios=(8, 4, 2, 1)
    )

    def __init__(
        self,
        arch: str | dict = 'tiny',
        pretrain_img_size: int = 224,
        in_channels: int = 3,
        patch_sizes: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        final_norm: bool = False,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        acmix: dict = dict(),
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN', eps=1e-6),
        with_cp: bool = False,
        frozen_stages: int = -1,
        convert_weights: bool = False,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        depths, widths, heads, mlp_ratios, sr_ratios = self._arch(arch)
        check_integers(pretrain_img_size=pretrain_img_size, in_channels=in_channels)
        check_integer_entries(len(depths), patch_sizes=patch_sizes)
        check_probabilities(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        super().__init__(
            len(depths),
            in_channels,
            out_indices,
            frozen_stages,
            convert_weights=convert_weights,
            init_cfg=init_cfg,
            default_init=[
                dict(type='TruncNormal', layer='Linear', std=0.02),
                dict(type='Kaiming', layer='Conv2d', mode='fan_out'),
            ],
        )
        drop_path_rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.drop = nn.Dropout(drop_rate)
        self.patch_embeds, self.stages = ModuleList(), ModuleList()
        side = pretrain_img_size
        for stage, (depth, channels) in enumerate(zip(depths, widths, strict=True)):
            side = max(1, side // patch_sizes[stage])
            self.patch_embeds.append(PatchEmbed(in_channels, channels, patch_sizes[stage], (side, side), norm_cfg))
            self.stages.append(
                ModuleList(
                    TransformerBlock(
                        SpatialReductionACmix(
                            channels,
                            heads[stage],
                            sr_ratios[stage],
                            qkv_bias=qkv_bias,
                            attn_drop_rate=attn_drop_rate,
                            drop_rate=drop_rate,
                            norm_cfg=norm_cfg,
                            **acmix,
                        ),
                        channels,
                        mlp_ratios[stage] * channels,
                        drop_path_rate=next(drop_path_rates),
                        drop_rate=drop_rate,
                        act_cfg=act_cfg,
                        norm_cfg=norm_cfg,
                        with_cp=with_cp,
                    )
                    for _ in range(depth)
                )
            )
            in_channels = channels
        self.norm = build_norm_layer(norm_cfg, channels)[1] if final_norm else nn.Identity()
        self.register_load_state_dict_pre_hook(_fit_to_arguments)
        self.freeze()

    def _arch(self, arch: str | dict) -> tuple[Sequence[int], ...]:
        if isinstance(arch, str):
            if arch not in self.arch_settings:
                raise ValueError(f'arch must be one of {tuple(self.arch_settings)} or a dict, got {arch!r}')
            arch = self.arch_settings[arch]
        names = ('depths', *self.arch_defaults)
        if isinstance(arch, dict) and 'reductions' in arch:
            warnings.warn("'reductions' of arch is now called 'sr_ratios'", DeprecationWarning, stacklevel=3)
            arch = {'sr_ratios' if name == 'reductions' else name: values for name, values in arch.items()}
        if not isinstance(arch, dict) or 'depths' not in arch or set(arch) - set(names):
            parts = ', '.join(self.arch_defaults)
            raise ValueError(f'arch must be a name or a dict of depths, and it may have {parts}, got {arch!r}')
        check_integer_entries(1, **{'depths of arch': arch['depths']})
        stages = len(arch['depths'])
        arch = {name: values[:stages] for name, values in self.arch_defaults.items()} | dict(arch)
        check_integer_entries(stages, **{f'{name} of arch': values for name, values in arch.items()})
        if any(len(values) != stages for values in arch.values()):
            raise ValueError(f'arch must have an entry for each of {stages} stages in all its parts, got {arch}')
        return tuple(arch[name] for name in names)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to one map ``(B, C, h, w)`` an entry of ``out_indices``.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape.
        """
        self.check_images(x)
        outs = []
        for index, (patch_embed, stage) in enumerate(zip(self.patch_embeds, self.stages, strict=True)):
            x = self.drop(patch_embed(x))
            for block in stage:
                x = block(x)
            if index == len(self.stages) - 1:
                x = self.norm(x)
            x = x.permute(0, 3, 1, 2).contiguous()
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def source_of(self, state_dict: dict[str, Tensor]) -> str:
        return 'pvt'

    def frozen(self) -> list[nn.Module]:
        frozen = [*self.patch_embeds[: max(1, self.frozen_stages)], *self.stages[: self.frozen_stages]]
        return [*frozen, self.norm] if self.frozen_stages == len(self.stages) else frozen


def _fit_to_arguments(module: ACmixPyramidVisionTransformer, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """What of a checkpoint depends on arguments, not on the network.

    The normalisation behind the last stage, which is a classifier's, is left out or starts as it is. Position
    embeddings for images of another size are interpolated.
    """
    for leaf in ('weight', 'bias'):
        name = f'{prefix}norm.{leaf}'
        if isinstance(module.norm, nn.Identity):
            state_dict.pop(name, None)
        elif name not in state_dict:
            state_dict[name] = getattr(module.norm, leaf).detach()
    for stage, patch_embed in enumerate(module.patch_embeds):
        name, size = f'{prefix}patch_embeds.{stage}.position', patch_embed.position.shape[2:]
        if name in state_dict and state_dict[name].shape[2:] != size:
            state_dict[name] = F.interpolate(state_dict[name], size=size, mode='bilinear')
