"""ACmix for OpenMMLab. Importing this package registers its layers and backbones in MMEngine's root registry."""

from .environment import allow_training_state, check_environment
from .version import __version__

check_environment()
allow_training_state()

from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

from . import backbones, checkpoints, datasets, layers, ops, reporting, training  # noqa: E402

# The packages whose configs can be bases (`mmacmix::...`) and whose models the inferencers list.
MODULE2PACKAGE['mmacmix'] = 'mmacmix'

__all__ = ['__version__', 'backbones', 'checkpoints', 'datasets', 'layers', 'ops', 'reporting', 'training']
