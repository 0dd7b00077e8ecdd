"""Arithmetic of sizes."""


def ceil_div(length: int, unit: int) -> int:
    """``length / unit``, rounded up."""
    return -(-length // unit)


def padding_to_multiple(length: int, unit: int) -> int:
    """How much to add to ``length`` to make it a multiple of ``unit``.

    The sum with ``length`` is one that an exporter, to whom ``length`` is a symbol, recognises as a multiple.
    """
    return (length + unit - 1) // unit * unit - length
