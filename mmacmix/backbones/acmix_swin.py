"""ACmix-Swin: the Swin Transformer with ACmix in its windows (arXiv 2111.14556, section 4.4)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import WindowACmix
from ..layers.arguments import check_integer_entries, check_probabilities, is_number
from ..ops import check_integers, is_integer, padding_to_multiple
from .base import BaseBackbone
from .transformer import TransformerBlock


class PatchEmbed(BaseModule):
    """Patches of the image become pixels of the map.

    Args:
        in_channels: Channels of the image.
        channels: Channels of the output.
        patch_size: Side of a patch in pixels.
        norm_cfg: Normalisation of the patches; None for none.
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, channels, patch_size, patch_size)
        self.norm = build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, ceil(H / patch_size), ceil(W / patch_size), channels)``."""
        bottom, right = (padding_to_multiple(side, self.patch_size) for side in x.shape[2:])
        return self.norm(self.projection(F.pad(x, (0, right, 0, bottom))).permute(0, 2, 3, 1))


class PatchMerging(BaseModule):
    """Every 2 x 2 pixels become one of twice the channels.

    Args:
        channels: Channels of the input.
        norm_cfg: Normalisation of the joined pixels; None for none.
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
        # The original repository's order: column by column within the 2 x 2 pixels.
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


@MODELS.register_module()
class ACmixSwinTransformer(BaseBackbone):
    """ACmix-Swin backbone, for images of any size.

    A Swin Transformer whose windows are ``mmacmix.layers.WindowACmix``. Maps that windows or patches do not
    divide are padded with zeros at the bottom and right. Arguments that it shares with the SwinTransformer of
    MMDetection and MMSegmentation have the same meaning.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of ``embed_dims``, ``depths`` and ``num_heads``.
            Default: ``'tiny'``.
        pretrain_img_size: Size in pixels, one number or ``(H, W)``, that the absolute position embedding is for.
            Default: 224.
        in_channels: Channels of the image. Default: 3.
        patch_size: Side of a patch in pixels. Default: 4.
        window_size: Side of a window in patches. Default: 7.
        mlp_ratio: Channels inside the two-layer networks over those outside. Default: 4.
        out_indices: Stages whose output is normalised and returned. Default: ``(0, 1, 2, 3)``.
        qkv_bias: Bias of the projections to query, key and value. Default: True.
        qk_scale: Factor of the logits; None stands for ``head_dim ** -0.5``. Default: None.
        patch_norm: Normalise after patches are embedded and merged. Default: True.
        drop_rate: Dropout. Default: 0.
        attn_drop_rate: Dropout of attention weights. Default: 0.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0. Default: 0.1.
        use_abs_pos_embed: Add a learned map to the patches, resized to the image. Default: False.
        conv_on_rolled: Convolve the rolled map as published; see ``mmacmix.layers.WindowACmix``.
            Default: True.
        acmix: ``rates``, ``learn_rates`` and ``shift_form`` of the layers. Default: none.
        act_cfg: Activation. Default: ``dict(type='GELU')``.
        norm_cfg: Normalisation. Default: ``dict(type='LN')``.
        with_cp: Compute each block again in backward instead of keeping its maps. Default: False.
        frozen_stages: Stages that do not train, with the patch embedding; 0 freezes the latter alone, -1 nothing.
            Default: -1.
        convert_weights: The checkpoint of ``init_cfg`` is someone else's: a published ACmix-Swin, or a plain Swin in
            any layout that ``mmacmix.checkpoints.convert`` knows. Default: False.
        init_cfg: MMEngine initialisation; None starts linear layers as Swin does, from a normal distribution of
            standard deviation 0.02. Default: None.

    Raises:
        ValueError: An argument is out of range, or does not fit the others.
    """

    can_convert = True
    arch_settings = {
        'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    }

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
        channels, depths, heads = self._arch(arch)
        stages = len(depths)
        check_integers(in_channels=in_channels, patch_size=patch_size, window_size=window_size)
        check_probabilities(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        if not is_number(mlp_ratio) or mlp_ratio * channels < 1:
            raise ValueError(f'mlp_ratio must be a number that leaves channels, got {mlp_ratio!r}')
        size = (pretrain_img_size,) * 2 if is_integer(pretrain_img_size) else pretrain_img_size
        if not isinstance(size, Sequence) or len(size) != 2 or not all(map(is_integer, size)) or min(size) < patch_size:
            raise ValueError(
                f'pretrain_img_size must be one integer or two, none less than patch_size {patch_size}, '
                f'got {pretrain_img_size!r}'
            )
        super().__init__(
            stages,
            in_channels,
            out_indices,
            frozen_stages,
            convert_weights=convert_weights,
            init_cfg=init_cfg,
            default_init=dict(type='TruncNormal', layer='Linear', std=0.02),
        )
        patch_norm_cfg = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(in_channels, channels, patch_size, patch_norm_cfg)
        self.absolute_pos_embed = None
        if use_abs_pos_embed:
            embedding = torch.empty(1, channels, *(side // patch_size for side in size))
            self.absolute_pos_embed = nn.Parameter(trunc_normal_(embedding, std=0.02))
        self.drop = nn.Dropout(drop_rate)
        drop_path_rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.stages, self.downsamples = ModuleList(), ModuleList()
        for stage, depth in enumerate(depths):
            self.stages.append(ModuleList())
            for block in range(depth):
                self.stages[-1].append(
                    TransformerBlock(
                        WindowACmix(
                            channels,
                            heads[stage],
                            window_size=window_size,
                            shift_size=window_size // 2 if block % 2 else 0,
                            qkv_bias=qkv_bias,
                            qk_scale=qk_scale,
                            attn_drop_rate=attn_drop_rate,
                            drop_rate=drop_rate,
                            conv_on_rolled=conv_on_rolled,
                            **acmix,
                        ),
                        channels,
                        int(mlp_ratio * channels),
                        drop_path_rate=next(drop_path_rates),
                        drop_rate=drop_rate,
                        act_cfg=act_cfg,
                        norm_cfg=norm_cfg,
                        with_cp=with_cp,
                    )
                )
            if stage in self.out_indices:
                self.add_module(f'norm{stage}', build_norm_layer(norm_cfg, channels)[1])
            if stage < stages - 1:
                self.downsamples.append(PatchMerging(channels, patch_norm_cfg))
                channels *= 2
        self.register_load_state_dict_pre_hook(_fit_to_arguments)
        self.freeze()

    def _arch(self, arch: str | dict) -> tuple[int, Sequence[int], Sequence[int]]:
        if isinstance(arch, str):
            if arch not in self.arch_settings:
                raise ValueError(f'arch must be one of {tuple(self.arch_settings)} or a dict, got {arch!r}')
            arch = self.arch_settings[arch]
        names = ('embed_dims', 'depths', 'num_heads')
        if not isinstance(arch, dict) or set(arch) != set(names):
            raise ValueError(f'arch must be a name or a dict of {", ".join(names)}, got {arch!r}')
        channels, depths, heads = (arch[name] for name in names)
        check_integers(**{'embed_dims of arch': channels})
        check_integer_entries(1, **{'depths of arch': depths, 'num_heads of arch': heads})
        if len(depths) != len(heads):
            raise ValueError(f'arch must have as many num_heads as depths, got {heads} and {depths}')
        return channels, depths, heads

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to one map ``(B, C, h, w)`` an entry of ``out_indices``.

        Stage s has ``C = embed_dims * 2**s`` channels and steps of ``patch_size * 2**s`` pixels.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape.
        """
        self.check_images(x)
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            embedding = self.absolute_pos_embed
            if embedding.shape[2:] != x.shape[1:3]:
                embedding = F.interpolate(embedding, size=x.shape[1:3], mode='bicubic')
            x = x + embedding.permute(0, 2, 3, 1)
        x = self.drop(x)
        outs = []
        for index, stage in enumerate(self.stages):
            if index:
                x = self.downsamples[index - 1](x)
            for block in stage:
                x = block(x)
            if index in self.out_indices:
                outs.append(getattr(self, f'norm{index}')(x).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def source_of(self, state_dict: dict[str, Tensor]) -> str:
        return 'acmix-swin' if any(name.endswith('attn.rate1') for name in state_dict) else 'swin'

    def frozen(self) -> list[nn.Module | nn.Parameter]:
        frozen = [self.patch_embed, self.drop]
        if self.absolute_pos_embed is not None:
            frozen.append(self.absolute_pos_embed)
        for stage in range(self.frozen_stages):
            frozen.append(self.stages[stage])
            if stage in self.out_indices:
                frozen.append(getattr(self, f'norm{stage}'))
            if stage < len(self.downsamples):
                frozen.append(self.downsamples[stage])
        return frozen


def _fit_to_arguments(module: ACmixSwinTransformer, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """What of a checkpoint depends on arguments, not on the network.

    A classifier's checkpoint has a normalisation behind its last stage alone: the others start as they are. One for
    stages that are not asked for is left out. The absolute position embedding is interpolated.
    """
    for stage in range(len(module.stages)):
        for leaf in ('weight', 'bias'):
            name = f'{prefix}norm{stage}.{leaf}'
            if stage not in module.out_indices:
                state_dict.pop(name, None)
            elif name not in state_dict and stage < len(module.stages) - 1:
                state_dict[name] = getattr(getattr(module, f'norm{stage}'), leaf).detach()
    name = f'{prefix}absolute_pos_embed'
    if name in state_dict and module.absolute_pos_embed is not None:
        size = module.absolute_pos_embed.shape[2:]
        embedding = state_dict[name]
        if embedding.shape[2] == 1:  # as plain Swin keeps it
            places = embedding.shape[3]
            side = math.isqrt(places)
            if places != size.numel() and places != side**2:
                raise ValueError(
                    f'absolute_pos_embed has {places} places, which is no square: pretrain_img_size must be as it was'
                )
            embedding = embedding.unflatten(3, size if places == size.numel() else (side, side))[:, :, 0]
        if embedding.shape[2:] != size:
            embedding = F.interpolate(embedding, size=size, mode='bicubic')
        state_dict[name] = embedding
