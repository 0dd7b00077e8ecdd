"""ACmix for OpenMMLab. Importing this package registers its layers and backbones in MMEngine's root registry."""

from .environment import check_environment
from .version import __version__

check_environment()

from . import backbones, checkpoints, datasets, layers, ops  # noqa: E402

__all__ = ['__version__', 'backbones', 'checkpoints', 'datasets', 'layers', 'ops']
