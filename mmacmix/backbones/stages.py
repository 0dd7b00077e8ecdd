"""What backbones have in common: checks of stages and images, statistics that stay."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import is_integer


def check_stages(stages: int, out_indices: Sequence[int], frozen_stages: int) -> None:
    """Check arguments that name stages.

    Raises:
        ValueError: One of them names a stage that is not there.
    """
    if (
        not isinstance(out_indices, Sequence)
        or not out_indices
        or not all(is_integer(index) and 0 <= index < stages for index in out_indices)
    ):
        raise ValueError(f'out_indices must name stages 0 to {stages - 1}, got {out_indices!r}')
    if not is_integer(frozen_stages) or not -1 <= frozen_stages <= stages:
        raise ValueError(f'frozen_stages must be -1 to {stages}, got {frozen_stages!r}')


def check_images(x: Tensor, channels: int) -> None:
    """Check what a backbone is given.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It is not ``(B, channels, H, W)``, or the images have no pixels.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f'x must be a tensor, got {type(x).__name__}')
    if x.dim() != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        raise ValueError(f'x must be images (B, {channels}, H, W), H and W at least 1, got {tuple(x.shape)}')


def fix_statistics(network: nn.Module) -> None:
    """Set batch normalisation alone to evaluation: it takes the statistics that it has, and keeps them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
