from .acmix_pvt import ACmixPyramidVisionTransformer
from .acmix_resnet import ACmixResNet
from .acmix_san import ACmixSAN
from .acmix_swin import ACmixSwinTransformer

__all__ = ['ACmixPyramidVisionTransformer', 'ACmixResNet', 'ACmixSAN', 'ACmixSwinTransformer']
