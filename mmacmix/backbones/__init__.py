from .acmix_resnet import ACmixResNet

__all__ = ['ACmixResNet']
