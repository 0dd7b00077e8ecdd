from ..versions import check_openmmlab

check_openmmlab()

from .acmix_neck import ACmixNeck, NeckLayer
from .replacement import ReplaceConvs, replace_convs

__all__ = ['ACmixNeck', 'NeckLayer', 'ReplaceConvs', 'replace_convs']
