"""One operator of the published ACmix code (LeapLabTHU/ACmix)."""

from torch import Tensor

from .keys import rename

OPERATOR = {
    'rate1': 'attention_rate',
    'rate2': 'conv_rate',
    'fc.weight': 'shift_conv.mixing',
    'dep_conv.weight': 'shift_conv.weight',
    **{
        f'{theirs}.{leaf}': f'{ours}.{leaf}'
        for theirs, ours in (('conv1', 'query'), ('conv2', 'key'), ('conv3', 'value'), ('conv_p', 'position'))
        for leaf in ('weight', 'bias')
    },
}


def convert_acmix(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published operator -> ``mmacmix.layers.ACmix``."""
    return reshape_mixing(rename(state_dict, OPERATOR, 'acmix'))


def reshape_mixing(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fully connected layer was a 1x1 convolution, with two axes of length 1."""
    return {
        name: tensor.flatten(1) if name.endswith('shift_conv.mixing') else tensor for name, tensor in state_dict.items()
    }
