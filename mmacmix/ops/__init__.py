from .aggregation import aggregate, windows
from .borders import reflect, window_positions
from .exportable import is_exporting
from .memory_format import contiguous
from .neighborhood_attention import BACKENDS, available_backends, check_window, neighborhood_attention
from .shift_conv import dense_shift_conv, feature_projection, merged_kernels, mix, shift_conv, shift_kernels

__all__ = [
    'BACKENDS',
    'aggregate',
    'available_backends',
    'check_window',
    'contiguous',
    'dense_shift_conv',
    'feature_projection',
    'is_exporting',
    'merged_kernels',
    'mix',
    'neighborhood_attention',
    'reflect',
    'shift_conv',
    'shift_kernels',
    'window_positions',
    'windows',
]
