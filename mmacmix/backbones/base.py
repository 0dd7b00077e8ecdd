"""The base classes of all backbones and their blocks."""

from collections.abc import Iterator, Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..layers.arguments import check_integer_entries
from ..layers.scripting import NotScriptable
from ..ops import check_integers, is_integer
from .pretrained import load_pretrained


class BaseBackbone(NotScriptable, BaseModule):
    """A network of stages that returns a tuple of feature maps, one per entry of ``out_indices``.

    A subclass defines ``_forward_stages`` and ``_frozen`` and calls ``freeze`` at the end of its constructor.

    Args:
        stages: Number of stages.
        in_channels: Channels of the image.
        out_indices: Stages whose output is returned.
        frozen_stages: Number of stages to freeze together with the stem; 0 freezes the stem alone, -1 nothing.
        norm_eval: Keep batch normalisation in evaluation mode during training. Default: False.
        convert_weights: Convert the checkpoint of ``init_cfg`` with ``mmacmix.checkpoints.convert``. Default: False.
        init_cfg: MMEngine initialisation; None stands for ``default_init_cfg``. Default: None.

    Raises:
        ValueError: ``in_channels`` is not positive, ``out_indices`` or ``frozen_stages`` names a stage that does not
            exist, or ``convert_weights`` is set although ``init_cfg`` names no checkpoint.
    """

    default_init_cfg: dict | list[dict] = [
        dict(type='Kaiming', layer='Conv2d'),
        dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
    ]

    def __init__(
        self,
        stages: int,
        in_channels: int,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool = False,
        convert_weights: bool = False,
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        check_integers(in_channels=in_channels)
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or not all(is_integer(index) and 0 <= index < stages for index in out_indices)
        ):
            raise ValueError(f'out_indices must name stages 0 to {stages - 1}, got {out_indices!r}')
        if not is_integer(frozen_stages) or not -1 <= frozen_stages <= stages:
            raise ValueError(f'frozen_stages must be -1 to {stages}, got {frozen_stages!r}')
        if convert_weights and init_cfg and not (isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'):
            raise ValueError(f"convert_weights needs init_cfg=dict(type='Pretrained', checkpoint=...), got {init_cfg}")
        super().__init__(init_cfg or self.default_init_cfg)
        self.convert_weights = convert_weights
        self.in_channels, self.out_indices = in_channels, tuple(out_indices)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images ``(B, in_channels, H, W)`` to one map ``(B, C, h, w)`` per entry of ``out_indices``.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: It has another shape, or the images have no pixels.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f'x must be a tensor, got {type(x).__name__}')
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f'x must be images (B, {self.in_channels}, H, W), H and W at least 1, got {tuple(x.shape)}'
            )
        return tuple(out for index, out in enumerate(self._forward_stages(x)) if index in self.out_indices)

    def _forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of each stage."""
        raise NotImplementedError

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        """The stem and the first ``frozen_stages`` stages."""
        raise NotImplementedError

    def source_of(self, state_dict: dict[str, Tensor]) -> str | None:
        """The ``source`` for ``mmacmix.checkpoints.convert``, or None if no such weights can be converted."""
        return None

    def init_weights(self) -> None:
        """Initialise according to ``init_cfg``; checkpoints are read as data, without running code.

        Raises:
            ValueError: A checkpoint cannot be read or does not fit.
        """
        init_cfg = self.init_cfg
        entries = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
        self.init_cfg = [entry for entry in entries if entry['type'] != 'Pretrained']
        try:
            super().init_weights()
        finally:
            self.init_cfg = init_cfg
        for entry in entries:
            if entry['type'] == 'Pretrained':
                load_pretrained(self, entry)

    def train(self, mode: bool = True) -> 'BaseBackbone':
        """Set the mode; frozen stages, and batch normalisation with ``norm_eval``, stay in evaluation mode."""
        super().train(mode)
        self.freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def freeze(self) -> None:
        """Freeze the stem and the first ``frozen_stages`` stages."""
        if self.frozen_stages < 0:
            return
        for part in self._frozen():
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()


class BackboneBlock(BaseModule):
    """A residual block; ``with_cp`` recomputes its activations in backward to save memory."""

    def __init__(self, with_cp: bool) -> None:
        super().__init__()
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Apply ``_forward``, with activation checkpointing if ``with_cp`` is set."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def resolve_arch(arch: str | dict, settings: dict[str, dict], defaults: dict[str, Sequence[int]] = {}) -> dict:
    """Look up an architecture by name, or check a dict with the same keys; keys of ``defaults`` are optional.

    Tuples have an entry per stage, and ``depths`` determines the number of stages.

    Raises:
        ValueError: The name is unknown, or the dict has other keys or lengths.
    """
    if isinstance(arch, str):
        arch = settings.get(arch, arch)
    example = next(iter(settings.values())) | defaults
    required = example.keys() - defaults.keys()
    if not isinstance(arch, dict) or not required <= arch.keys() <= example.keys():
        keys = ', '.join(name for name in example if name in required)
        optional = f' and optionally {", ".join(defaults)}' if defaults else ''
        raise ValueError(f'arch must be one of {tuple(settings)} or a dict of {keys}{optional}, got {arch!r}')
    check_integer_entries(1, **{'depths of arch': arch['depths']})
    stages = len(arch['depths'])
    arch = {name: values[:stages] for name, values in defaults.items()} | dict(arch)
    for name, value in arch.items():
        if isinstance(example[name], int):
            check_integers(**{f'{name} of arch': value})
            continue
        check_integer_entries(stages, **{f'{name} of arch': value})
        if len(value) > stages:
            raise ValueError(f'{name} of arch must have as many entries as depths, {stages}, got {value!r}')
    return arch
