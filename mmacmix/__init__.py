"""ACmix and related operators for OpenMMLab.

Operators and layers need only torch. If MMEngine and MMCV are installed, importing this package also registers the
layers, backbones and necks in MMEngine's root registry; it has no other effect on the process.
"""

from importlib import import_module

from . import checkpoints, deploy, layers, ops
from .version import __version__
from .versions import has_openmmlab

__all__ = ['__version__', 'checkpoints', 'deploy', 'layers', 'ops']

# Subpackages that need MMEngine and MMCV.
_OPENMMLAB = ('backbones', 'datasets', 'engine', 'inference', 'necks', 'reporting')

if has_openmmlab():
    from . import backbones, datasets, engine, necks, registration, reporting  # noqa: F401

    __all__ += ['backbones', 'datasets', 'engine', 'necks', 'reporting']


def __getattr__(name: str):
    """Import a subpackage that is not imported above; without MMEngine or MMCV, the error names what is missing."""
    if name in _OPENMMLAB:
        return import_module(f'.{name}', __name__)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
