"""ACmix-PVT: the Pyramid Vision Transformer with ACmix in its attention (arXiv 2111.14556, table 2)."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import SpatialReductionACmix, pad_to_patch
from ..layers.arguments import check_integer_entries, check_probabilities
from ..ops import check_integers, register_load_state_dict_pre_hook
from .base import BaseBackbone, resolve_arch
from .transformer import PatchProjection, TransformerBlock, fit_norm, resized


class PatchEmbed(PatchProjection):
    """Project patches and add a position embedding, which is interpolated to the size of the map.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        patch_size: Side of a patch in pixels.
        side: Height and width of the position embedding.
        norm_cfg: Normalisation of the projection.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int, side: int, norm_cfg: dict) -> None:
        super().__init__(in_channels, channels, patch_size, norm_cfg)
        self.position = nn.Parameter(trunc_normal_(torch.empty(1, channels, side, side), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, H // patch_size, W // patch_size, channels)``, sides at least 1."""
        x = super().forward(pad_to_patch(x, self.patch_size))
        return x + resized(self.position, x.shape[1:3], 'bilinear').permute(0, 2, 3, 1)


@MODELS.register_module()
class ACmixPyramidVisionTransformer(BaseBackbone):
    """ACmix-PVT backbone, for images of any size.

    A Pyramid Vision Transformer whose attention is ``mmacmix.layers.SpatialReductionACmix``. A reconstruction:
    the authors published size and ImageNet accuracy, but neither code nor weights. As in PVT, the pixels of
    incomplete patches at the bottom and right are dropped.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'medium'``, ``'large'``, or a dict of ``depths`` and optionally
            ``embed_dims``, ``num_heads``, ``mlp_ratios`` and ``sr_ratios``, whose defaults are PVT's:
            (64, 128, 320, 512), (1, 2, 5, 8), (8, 8, 4, 4) and (8, 4, 2, 1). Default: ``'tiny'``.
        pretrain_img_size: Image size in pixels for which the position embeddings are made. Default: 224.
        in_channels: Channels of the image. Default: 3.
        patch_sizes: Side of the patches of each stage, in pixels of its input. Default: ``(4, 2, 2, 2)``.
        out_indices: Stages whose output is returned. Default: ``(0, 1, 2, 3)``.
        final_norm: Normalise the last stage's output, as a classifier does. Default: False.
        qkv_bias: Bias of the projections to query, key and value. Default: True.
        drop_rate: Dropout. Default: 0.
        attn_drop_rate: Dropout of the attention weights. Default: 0.
        drop_path_rate: Stochastic depth of the last block; rates increase linearly from 0. Default: 0.1.
        acmix: ``rates``, ``learn_rates`` and ``shift_form`` of the layers. Default: none.
        act_cfg: Activation. Default: ``dict(type='GELU')``.
        norm_cfg: Normalisation. Default: ``dict(type='LN', eps=1e-6)``.
        with_cp: Recompute each block's activations in backward to save memory. Default: False.
        frozen_stages: Number of stages to freeze; 0 freezes the first patch embedding alone, -1 nothing. Default: -1.
        convert_weights: Convert the checkpoint of ``init_cfg``, a plain PVT in a layout that
            ``mmacmix.checkpoints.convert`` knows. Default: False.
        init_cfg: MMEngine initialisation; None stands for a truncated normal distribution of standard deviation 0.02
            for linear layers and Kaiming's for convolutions. Default: None.

    Raises:
        ValueError: An argument is out of range, or does not fit the others.
    """

    arch_settings = {
        'tiny': dict(depths=(2, 2, 2, 2)),
        'small': dict(depths=(3, 4, 6, 3)),
        'medium': dict(depths=(3, 4, 18, 3)),
        'large': dict(depths=(3, 8, 27, 3)),
    }
    arch_defaults = dict(
        embed_dims=(64, 128, 320, 512), num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4), sr_ratios=(8, 4, 2, 1)
    )
    default_init_cfg = [
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Kaiming', layer='Conv2d', mode='fan_out'),
    ]

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
        if isinstance(arch, dict) and 'reductions' in arch:
            warnings.warn("'reductions' of arch is now called 'sr_ratios'", DeprecationWarning, stacklevel=2)
            arch = {'sr_ratios' if name == 'reductions' else name: values for name, values in arch.items()}
        arch = resolve_arch(arch, self.arch_settings, self.arch_defaults)
        depths, widths, heads = arch['depths'], arch['embed_dims'], arch['num_heads']
        check_integers(pretrain_img_size=pretrain_img_size)
        check_integer_entries(len(depths), patch_sizes=patch_sizes)
        check_probabilities(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        super().__init__(
            len(depths), in_channels, out_indices, frozen_stages, convert_weights=convert_weights, init_cfg=init_cfg
        )
        attention = partial(
            SpatialReductionACmix,
            qkv_bias=qkv_bias,
            attn_drop_rate=attn_drop_rate,
            drop_rate=drop_rate,
            norm_cfg=norm_cfg,
            **acmix,
        )
        block = partial(TransformerBlock, drop_rate=drop_rate, act_cfg=act_cfg, norm_cfg=norm_cfg, with_cp=with_cp)
        drop_path_rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.drop = nn.Dropout(drop_rate)
        self.patch_embeds, self.stages = ModuleList(), ModuleList()
        channels, side = in_channels, pretrain_img_size
        for stage, width in enumerate(widths):
            side = max(1, side // patch_sizes[stage])
            self.patch_embeds.append(PatchEmbed(channels, width, patch_sizes[stage], side, norm_cfg))
            channels, hidden_channels = width, arch['mlp_ratios'][stage] * width
            self.stages.append(
                ModuleList(
                    block(
                        attention(channels, heads[stage], arch['sr_ratios'][stage]),
                        channels,
                        hidden_channels,
                        next(drop_path_rates),
                    )
                    for _ in range(depths[stage])
                )
            )
        self.norm = build_norm_layer(norm_cfg, channels)[1] if final_norm else nn.Identity()
        register_load_state_dict_pre_hook(self, _fit_to_arguments)
        self.freeze()

    def _forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        for index, (patch_embed, stage) in enumerate(zip(self.patch_embeds, self.stages, strict=True)):
            x = self.drop(patch_embed(x))
            for block in stage:
                x = block(x)
            if index == len(self.stages) - 1:
                x = self.norm(x)
            x = x.permute(0, 3, 1, 2).contiguous()
            yield x

    def source_of(self, state_dict: dict[str, Tensor]) -> str:
        return 'pvt'

    def _frozen(self) -> list[nn.Module]:
        frozen = [*self.patch_embeds[: max(1, self.frozen_stages)], *self.stages[: self.frozen_stages]]
        return [*frozen, self.norm] if self.frozen_stages == len(self.stages) else frozen


def _fit_to_arguments(module: ACmixPyramidVisionTransformer, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Adapt a checkpoint to ``final_norm`` and ``pretrain_img_size``."""
    fit_norm(state_dict, f'{prefix}norm', None if isinstance(module.norm, nn.Identity) else module.norm)
    for stage, patch_embed in enumerate(module.patch_embeds):
        name = f'{prefix}patch_embeds.{stage}.position'
        if name in state_dict:
            state_dict[name] = resized(state_dict[name], patch_embed.position.shape[2:], 'bilinear')
