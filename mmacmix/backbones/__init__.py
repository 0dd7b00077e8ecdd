from ..versions import check_openmmlab

check_openmmlab()

from .acmix_pvt import ACmixPyramidVisionTransformer
from .acmix_resnet import ACmixResNet
from .acmix_san import ACmixSAN
from .acmix_swin import ACmixSwinTransformer
from .lesa_resnet import LESAResNet
from .resnet import ResNet
from .xvolution_resnet import XVolutionResNet

__all__ = [
    'ACmixPyramidVisionTransformer',
    'ACmixResNet',
    'ACmixSAN',
    'ACmixSwinTransformer',
    'LESAResNet',
    'ResNet',
    'XVolutionResNet',
]
