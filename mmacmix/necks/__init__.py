from ..versions import check_openmmlab

check_openmmlab()

from .acmix_neck import ACmixNeck
from .replacement import ReplaceConvs, replace_convs

__all__ = ['ACmixNeck', 'ReplaceConvs', 'replace_convs']
