"""Renaming the keys of a state dict such that every key is accounted for."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import UserError, listed


def rename(
    state_dict: Mapping[str, Tensor], names: Mapping[str, str], source: str, optional: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Rename keys from old to new as ``names`` maps them; an empty new key drops the tensor.

    Raises:
        UserError: Old keys are not in ``names``, or missing although they are not ``optional``.
    """
    unknown = sorted(set(state_dict) - set(names))
    missing = sorted(set(names) - set(state_dict) - set(optional))
    if unknown or missing:
        problems = {'unknown keys': unknown, 'missing keys': missing}
        text = '; '.join(f'{problem}: {listed(keys, 10)}' for problem, keys in problems.items() if keys)
        raise UserError(f'not a checkpoint of {source!r}: {text}')
    return {names[name]: tensor for name, tensor in state_dict.items() if names[name]}


def leaves(modules: Mapping[str, str], old: str = '', new: str = '') -> dict[str, str]:
    """Old to new keys of the weights and biases of modules; ``old`` and ``new`` are prefixes of both names."""
    return {f'{old}{a}.{leaf}': f'{new}{b}.{leaf}' for a, b in modules.items() for leaf in ('weight', 'bias')}


def dropped(*modules: str) -> dict[str, str]:
    """Keys of the weights and biases of modules that have no counterpart."""
    return {f'{module}.{leaf}': '' for module in modules for leaf in ('weight', 'bias')}


def blocks_of(state_dict: Mapping[str, Tensor], pattern: str) -> list[tuple[int, int]]:
    """All pairs of stage and block, up to the last block of each stage that matches the pattern."""
    depths: dict[int, int] = {}
    for name in state_dict:
        if found := re.match(pattern, name):
            stage, block = int(found[1]), int(found[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
    return [(stage, block) for stage, depth in sorted(depths.items()) for block in range(depth)]


def without_backbone_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of a whole network, and the head of a classifier; any other state dict as it is."""
    prefix = 'backbone.'
    if not any(name.startswith(prefix) for name in state_dict):
        return dict(state_dict)
    return {
        name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith((prefix, 'head.'))
    }
