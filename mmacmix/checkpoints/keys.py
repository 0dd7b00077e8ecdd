"""Renaming the keys of a state dict so that every one is accounted for."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import UserError


def rename(
    state_dict: Mapping[str, Tensor], names: Mapping[str, str], source: str, optional: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Rename keys; every key of ``names`` must be there but the ``optional`` ones, and no other.

    Args:
        state_dict: Names to tensors.
        names: From the source's names to ours; an empty new name leaves the tensor out.
        source: What the state dict should be, for the message.
        optional: Names that may be missing.

    Raises:
        UserError: Keys are unknown or missing.
    """
    unknown = sorted(set(state_dict) - set(names))
    missing = sorted(set(names) - set(state_dict) - set(optional))
    if unknown or missing:
        parts = [
            f'{what}: {_some(keys)}' for what, keys in (('unknown keys', unknown), ('missing keys', missing)) if keys
        ]
        raise UserError(f'not a checkpoint of {source!r}: ' + '; '.join(parts))
    return {names[name]: tensor for name, tensor in state_dict.items() if names[name]}


def leaves(
    pairs: Iterable[tuple[str, str]], theirs: str = '', ours: str = '', names: Iterable[str] = ('weight', 'bias')
) -> dict[str, str]:
    """Names of the parameters of modules, from ``theirs + pair[0]`` to ``ours + pair[1]``; no new name stays empty."""
    return {f'{theirs}{a}.{leaf}': f'{ours}{b}.{leaf}' if b else '' for a, b in pairs for leaf in names}


def without_backbone_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone of a whole network, or the state dict as it is, with a classifier's head if there is one."""
    prefix = 'backbone.'
    if not any(name.startswith(prefix) for name in state_dict):
        return dict(state_dict)
    return {
        name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith((prefix, 'head.'))
    }


def _some(keys, most: int = 10) -> str:
    more = f' and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + more
