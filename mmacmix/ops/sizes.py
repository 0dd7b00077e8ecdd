"""Integer arithmetic of sizes. Exporters simplify ``(a + b - 1) // b`` for symbolic sizes, but not ``-(-a // b)``."""


def ceil_div(length: int, unit: int) -> int:
    """``length / unit``, rounded up."""
    return (length + unit - 1) // unit


def padding_to_multiple(length: int, unit: int) -> int:
    """The smallest padding that makes ``length`` a multiple of ``unit``."""
    return ceil_div(length, unit) * unit - length
