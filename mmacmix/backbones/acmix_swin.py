"""ACmix-Swin: the Swin Transformer with ACmix in its windows (arXiv 2111.14556, section 4.4)."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import UserError
from ..layers import WindowACmix
from ..layers.arguments import check_probabilities, is_number
from ..ops import check_integers, is_integer, padding_to_multiple, register_load_state_dict_pre_hook
from .base import BaseBackbone, resolve_arch
from .transformer import PatchProjection, TransformerBlock, fit_norm, resized


class PatchMerging(BaseModule):
    """Merge every 2 x 2 pixels into one with twice the channels.

    Args:
        channels: Channels of the input.
        norm_cfg: Normalisation of the concatenated pixels, or None.
    """

    def __init__(self, channels: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, 4 * channels)[1] if norm_cfg else nn.Identity()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to ``(B, ceil(H / 2), ceil(W / 2), 2 C)``."""
        bottom, right = (padding_to_multiple(side, 2) for side in x.shape[1:3])
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # The 2 x 2 pixels are concatenated in column-major order, as in the original repository.
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


@MODELS.register_module()
class ACmixSwinTransformer(BaseBackbone):
    """ACmix-Swin backbone, for images of any size.

    A Swin Transformer whose attention is ``mmacmix.layers.WindowACmix``. Sides that are not a multiple of the patch
    or window size are padded with zeros at the bottom and right. Arguments shared with the SwinTransformer of
    MMDetection and MMSegmentation have the same meaning.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of ``embed_dims``, ``depths`` and ``num_heads``.
            Default: ``'tiny'``.
        pretrain_img_size: Image size in pixels, an integer or ``(H, W)``, for which the absolute position embedding
            is made. Default: 224.
        in_channels: Channels of the image. Default: 3.
        patch_size: Side of a patch in pixels. Default: 4.
        window_size: Side of a window in patches. Default: 7.
        mlp_ratio: Hidden channels of the MLPs relative to their input's. Default: 4.
        out_indices: Stages whose output is normalised and returned; stage s has ``embed_dims * 2**s`` channels and
            stride ``patch_size * 2**s``. Default: ``(0, 1, 2, 3)``.
        qkv_bias: Bias of the projections to query, key and value. Default: True.
        qk_scale: Factor of the logits; None stands for ``head_dim ** -0.5``. Default: None.
        patch_norm: Normalise in patch embedding and patch merging. Default: True.
        drop_rate: Dropout. Default: 0.
        attn_drop_rate: Dropout of the attention weights. Default: 0.
        drop_path_rate: Stochastic depth of the last block; rates increase linearly from 0. Default: 0.1.
        use_abs_pos_embed: Add an absolute position embedding, interpolated to the size of the map. Default: False.
        conv_on_rolled: Convolve the rolled map, as published; see ``mmacmix.layers.WindowACmix``. Default: True.
        acmix: ``rates``, ``learn_rates`` and ``shift_form`` of the layers. Default: none.
        act_cfg: Activation. Default: ``dict(type='GELU')``.
        norm_cfg: Normalisation. Default: ``dict(type='LN')``.
        with_cp: Recompute each block's activations in backward to save memory. Default: False.
        frozen_stages: Number of stages to freeze together with the patch embedding; 0 freezes the embedding alone, -1
            nothing. Default: -1.
        convert_weights: Convert the checkpoint of ``init_cfg``, a published ACmix-Swin or a plain Swin in a layout
            that ``mmacmix.checkpoints.convert`` knows. Default: False.
        init_cfg: MMEngine initialisation; None stands for a truncated normal distribution of standard deviation 0.02
            for linear layers, as in Swin. Default: None.

    Raises:
        ValueError: An argument is out of range, or does not fit the others.
    """

    arch_settings = {
        'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    }
    default_init_cfg = dict(type='TruncNormal', layer='Linear', std=0.02)

    def __init__(
        self,
        arch: str | dict = 'tiny',
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        conv_on_rolled: bool = True,
        acmix: dict = dict(),
        act_cfg: dict = dict(type='GELU'),
        norm_cfg: dict = dict(type='LN'),
        with_cp: bool = False,
        frozen_stages: int = -1,
        convert_weights: bool = False,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        arch = resolve_arch(arch, self.arch_settings)
        channels, depths, heads = arch['embed_dims'], arch['depths'], arch['num_heads']
        check_integers(patch_size=patch_size, window_size=window_size)
        check_probabilities(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        if not is_number(mlp_ratio) or mlp_ratio * channels < 1:
            raise ValueError(f'mlp_ratio must be a number of at least 1 / {channels}, got {mlp_ratio!r}')
        size = (pretrain_img_size,) * 2 if is_integer(pretrain_img_size) else pretrain_img_size
        if not isinstance(size, Sequence) or len(size) != 2 or not all(map(is_integer, size)) or min(size) < patch_size:
            raise ValueError(
                f'pretrain_img_size must be one integer or two, at least patch_size {patch_size}, '
                f'got {pretrain_img_size!r}'
            )
        super().__init__(
            len(depths), in_channels, out_indices, frozen_stages, convert_weights=convert_weights, init_cfg=init_cfg
        )
        patch_norm_cfg = norm_cfg if patch_norm else None
        self.patch_embed = PatchProjection(in_channels, channels, patch_size, patch_norm_cfg)
        self.absolute_pos_embed = None
        if use_abs_pos_embed:
            embedding = torch.empty(1, channels, *(side // patch_size for side in size))
            self.absolute_pos_embed = nn.Parameter(trunc_normal_(embedding, std=0.02))
        self.drop = nn.Dropout(drop_rate)
        attention = partial(
            WindowACmix,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            drop_rate=drop_rate,
            conv_on_rolled=conv_on_rolled,
            **acmix,
        )
        block = partial(TransformerBlock, drop_rate=drop_rate, act_cfg=act_cfg, norm_cfg=norm_cfg, with_cp=with_cp)
        drop_path_rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.stages, self.downsamples = ModuleList(), ModuleList()
        for stage, depth in enumerate(depths):
            self.stages.append(
                ModuleList(
                    block(
                        attention(channels, heads[stage], window_size, window_size // 2 if index % 2 else 0),
                        channels,
                        int(mlp_ratio * channels),
                        next(drop_path_rates),
                    )
                    for index in range(depth)
                )
            )
            if stage in self.out_indices:
                self.add_module(f'norm{stage}', build_norm_layer(norm_cfg, channels)[1])
            if stage < len(depths) - 1:
                self.downsamples.append(PatchMerging(channels, patch_norm_cfg))
                channels *= 2
        register_load_state_dict_pre_hook(self, _fit_to_arguments)
        self.freeze()

    def _forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        bottom, right = (padding_to_multiple(side, self.patch_embed.patch_size) for side in x.shape[2:])
        x = self.patch_embed(F.pad(x, (0, right, 0, bottom)))
        if self.absolute_pos_embed is not None:
            x = x + resized(self.absolute_pos_embed, x.shape[1:3], 'bicubic').permute(0, 2, 3, 1)
        x = self.drop(x)
        for index, stage in enumerate(self.stages):
            if index:
                x = self.downsamples[index - 1](x)
            for block in stage:
                x = block(x)
            if index in self.out_indices:
                yield getattr(self, f'norm{index}')(x).permute(0, 3, 1, 2).contiguous()
            else:
                yield x

    def source_of(self, state_dict: dict[str, Tensor]) -> str:
        return 'acmix-swin' if any(name.endswith('attn.rate1') for name in state_dict) else 'swin'

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        stages = range(self.frozen_stages)
        norms = [getattr(self, f'norm{stage}') for stage in stages if stage in self.out_indices]
        embedding = [] if self.absolute_pos_embed is None else [self.absolute_pos_embed]
        blocks = [*self.stages[: self.frozen_stages], *self.downsamples[: self.frozen_stages]]
        return [self.patch_embed, self.drop, *embedding, *blocks, *norms]


def _fit_to_arguments(module: ACmixSwinTransformer, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Adapt a checkpoint to ``out_indices`` and ``pretrain_img_size``.

    A classifier's checkpoint has a normalisation after the last stage only; the others keep their initial values.
    """
    last = len(module.stages) - 1
    for stage in range(last + 1):
        norm = getattr(module, f'norm{stage}', None)
        if norm is None or stage < last:
            fit_norm(state_dict, f'{prefix}norm{stage}', norm)
    name = f'{prefix}absolute_pos_embed'
    if name not in state_dict or module.absolute_pos_embed is None:
        return
    embedding, size = state_dict[name], module.absolute_pos_embed.shape[2:]
    if embedding.shape[2] == 1:  # one row, as plain Swin stores it
        positions = embedding.shape[3]
        stored = size if positions == size.numel() else (math.isqrt(positions),) * 2
        if math.prod(stored) != positions:
            raise UserError(
                f'absolute_pos_embed has {positions} positions, which is not a square: set pretrain_img_size to the '
                'size that it was trained with'
            )
        embedding = embedding.unflatten(3, stored)[:, :, 0]
    state_dict[name] = resized(embedding, size, 'bicubic')
