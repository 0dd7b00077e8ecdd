from .aggregation import aggregate, windows
from .arguments import (
    check_choice,
    check_entries,
    check_integer_entries,
    check_integers,
    check_multiple,
    check_probabilities,
    check_window,
    is_integer,
    is_number,
)
from .borders import reflect, window_positions
from .exportable import is_exporting
from .memory_format import contiguous
from .neighborhood_attention import BACKENDS, available_backends, neighborhood_attention
from .shift_conv import dense_shift_conv, feature_projection, merged_kernels, mix, shift_conv, shift_kernels

__all__ = [
    'BACKENDS',
    'aggregate',
    'available_backends',
    'check_choice',
    'check_entries',
    'check_integer_entries',
    'check_integers',
    'check_multiple',
    'check_probabilities',
    'check_window',
    'contiguous',
    'dense_shift_conv',
    'feature_projection',
    'is_exporting',
    'is_integer',
    'is_number',
    'merged_kernels',
    'mix',
    'neighborhood_attention',
    'reflect',
    'shift_conv',
    'shift_kernels',
    'window_positions',
    'windows',
]
