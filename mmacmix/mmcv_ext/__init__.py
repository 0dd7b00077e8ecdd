"""Operators for ``mmcv-lite``, which has none: ``python -m mmacmix.mmcv_ext`` installs them without a compiler."""
