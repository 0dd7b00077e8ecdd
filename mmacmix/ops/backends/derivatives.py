"""The backends that recompute in backward have first derivatives only."""

from typing import NoReturn


def refuse_second_derivatives(*_: object) -> NoReturn:
    """Raise ``NotImplementedError``, in place of the derivative of a gradient."""
    raise NotImplementedError("second derivatives of neighborhood_attention need backend='reference'")
