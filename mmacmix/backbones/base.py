"""What the backbones have in common: pretrained weights, frozen stages, fixed statistics, recomputed blocks."""

from collections.abc import Sequence

import torch
import torch.utils.checkpoint
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import is_integer
from .pretrained import check_convert_weights, load_pretrained


class BaseBackbone(BaseModule):
    """A network of stages that returns one map per entry of ``out_indices``.

    A subclass says what ``frozen_stages`` freezes, and calls ``freeze`` once it is built.

    Args:
        stages: The number of stages.
        in_channels: Channels of the image.
        out_indices: Stages whose output is returned.
        frozen_stages: Stages that are not trained; 0 freezes what comes before the first one, -1 nothing.
        norm_eval: Keep the statistics of batch normalisation fixed while training. Default: False.
        convert_weights: The checkpoint of ``init_cfg`` is someone else's, in a layout that
            ``mmacmix.checkpoints.convert`` knows. Default: False.
        init_cfg: MMEngine initialisation, or None. Default: None.
        default_init: The initialisation that None stands for. Default: None.

    Raises:
        ValueError: ``out_indices`` or ``frozen_stages`` name a stage that does not exist, or ``convert_weights`` goes
            with another initialisation than a checkpoint.
    """

    can_convert = False  # other people's weights, by ``source_of``

    def __init__(
        self,
        stages: int,
        in_channels: int,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool = False,
        convert_weights: bool = False,
        init_cfg: dict | Sequence[dict] | None = None,
        default_init: dict | Sequence[dict] | None = None,
    ) -> None:
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or not all(is_integer(index) and 0 <= index < stages for index in out_indices)
        ):
            raise ValueError(f'out_indices must name stages 0 to {stages - 1}, got {out_indices!r}')
        if not is_integer(frozen_stages) or not -1 <= frozen_stages <= stages:
            raise ValueError(f'frozen_stages must be -1 to {stages}, got {frozen_stages!r}')
        if convert_weights:
            check_convert_weights(init_cfg)
        super().__init__(init_cfg or default_init)
        self.convert_weights = convert_weights and init_cfg is not None
        self.in_channels, self.out_indices = in_channels, tuple(out_indices)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval

    def frozen(self) -> list[nn.Module | nn.Parameter]:
        """The modules and parameters that ``frozen_stages`` freezes, if it is at least 0."""
        raise NotImplementedError

    def source_of(self, state_dict: dict[str, Tensor]) -> str:
        """The source, as ``mmacmix.checkpoints.convert`` takes it, of a state dict to be converted."""
        raise NotImplementedError

    def check_images(self, x: Tensor) -> None:
        """Check the input of ``forward``.

        Raises:
            TypeError: It is not a tensor.
            ValueError: It is not ``(B, in_channels, H, W)``, or the images have no pixels.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f'x must be a tensor, got {type(x).__name__}')
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f'x must be images (B, {self.in_channels}, H, W), H and W at least 1, got {tuple(x.shape)}'
            )

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says. A checkpoint is read as data alone, whatever the process has set.

        Raises:
            ValueError: The checkpoint cannot be read or does not fit; the message names what is unknown or missing.
        """
        entries = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        pretrained = [each for each in entries if each['type'] == 'Pretrained']
        init_cfg, self.init_cfg = self.init_cfg, [each for each in entries if each not in pretrained]
        try:
            super().init_weights()
        finally:
            self.init_cfg = init_cfg
        for each in pretrained:
            load_pretrained(self, each)

    def train(self, mode: bool = True) -> 'BaseBackbone':
        """Switch between training and evaluation; frozen stages and fixed statistics stay in evaluation."""
        super().train(mode)
        self.freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def freeze(self) -> None:
        """Freeze what ``frozen_stages`` says."""
        if self.frozen_stages < 0:
            return
        for part in self.frozen():
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()


class BackboneBlock(BaseModule):
    """A block whose maps can be computed again in backward instead of being kept.

    Args:
        with_cp: Compute them again.
        init_cfg: MMEngine initialisation. Default: None.
    """

    def __init__(self, with_cp: bool, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, as its ``_forward`` says."""
        if self.with_cp and x.requires_grad:
            return torch.utils.checkpoint.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError
