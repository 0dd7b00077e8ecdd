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
from .global_attention import (
    attention_logits,
    content_statistics,
    global_attention,
    position_logits,
    position_statistics,
    relative_positions,
)
from .memory_format import contiguous
from .neighborhood_attention import BACKENDS, available_backends, neighborhood_attention
from .pixel_shift import kernel_offsets, related, shifted, stacked
from .shift_conv import dense_shift_conv, feature_projection, merged_kernels, mix, shift_conv, shift_kernels

__all__ = [
    'BACKENDS',
    'aggregate',
    'attention_logits',
    'available_backends',
    'check_choice',
    'check_entries',
    'check_integer_entries',
    'check_integers',
    'check_multiple',
    'check_probabilities',
    'check_window',
    'content_statistics',
    'contiguous',
    'dense_shift_conv',
    'feature_projection',
    'global_attention',
    'is_exporting',
    'is_integer',
    'is_number',
    'kernel_offsets',
    'merged_kernels',
    'mix',
    'neighborhood_attention',
    'position_logits',
    'position_statistics',
    'reflect',
    'related',
    'relative_positions',
    'shift_conv',
    'shift_kernels',
    'shifted',
    'stacked',
    'window_positions',
    'windows',
]
