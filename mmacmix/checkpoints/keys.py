"""Renaming the keys of a state dict so that every one is accounted for."""

from collections.abc import Iterable, Mapping

from torch import Tensor


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
        ValueError: Keys are unknown or missing.
    """
    unknown = sorted(set(state_dict) - set(names))
    missing = sorted(set(names) - set(state_dict) - set(optional))
    if unknown or missing:
        parts = [
            f'{what}: {_some(keys)}' for what, keys in (('unknown keys', unknown), ('missing keys', missing)) if keys
        ]
        raise ValueError(f'not a checkpoint of {source!r}: ' + '; '.join(parts))
    return {names[name]: tensor for name, tensor in state_dict.items() if names[name]}


def _some(keys, most: int = 10) -> str:
    more = f' and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + more
