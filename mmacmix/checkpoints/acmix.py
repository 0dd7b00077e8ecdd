"""One operator of the published ACmix code (LeapLabTHU/ACmix)."""

from torch import Tensor

from .keys import leaves, rename

OPERATOR = {
    'rate1': 'attention_rate',
    'rate2': 'conv_rate',
    'fc.weight': 'shift_conv.mixing',
    'dep_conv.weight': 'shift_conv.weight',
    **leaves({'conv1': 'query', 'conv2': 'key', 'conv3': 'value', 'conv_p': 'position'}),
}


def convert_acmix(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published operator -> ``mmacmix.layers.ACmix``."""
    return reshape_mixing(rename(state_dict, OPERATOR, 'acmix'))


def reshape_mixing(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the fully connected layer, published as a 1x1 convolution, into a matrix."""
    return {
        name: tensor.flatten(1) if name.endswith('shift_conv.mixing') else tensor for name, tensor in state_dict.items()
    }
