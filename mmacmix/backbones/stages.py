"""Which stages of a backbone: what all of them ask of their arguments."""

from collections.abc import Sequence


def check_stages(stages: int, out_indices: Sequence[int], frozen_stages: int) -> None:
    """Check arguments that name stages.

    Raises:
        ValueError: One of them names a stage that is not there.
    """
    if (
        not isinstance(out_indices, Sequence)
        or not out_indices
        or not all(0 <= index < stages for index in out_indices)
    ):
        raise ValueError(f'out_indices must name stages 0 to {stages - 1}, got {out_indices}')
    if not -1 <= frozen_stages <= stages:
        raise ValueError(f'frozen_stages must be -1 to {stages}, got {frozen_stages}')
