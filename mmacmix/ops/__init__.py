from .acmix import attention_path, sum_paths
from .aggregation import aggregate, windows
from .arguments import check_integers, check_window, is_integer
from .attention import dense_attention
from .backends.choice import BACKENDS, backend
from .borders import reflect, window_positions
from .constants import constants_recorded_once
from .coordinates import coordinate_map
from .exporting import are_numbers, is_exporting
from .functional import available_backends, neighborhood_attention
from .global_attention import (
    attention_logits,
    content_statistics,
    position_logits,
    position_statistics,
    relative_attention,
    relative_positions,
)
from .memory_format import contiguous
from .pixel_shift import kernel_offsets, related, shifted, stacked
from .shift_conv import dense_kernels, feature_projection, grouped_kernels, mix, shift_and_sum, shift_kernels
from .sizes import ceil_div, padding_to_multiple
from .torch_versions import (
    check_torch,
    is_compiling,
    is_transforming,
    register_load_state_dict_pre_hook,
    unfused_attention,
)

__all__ = [
    'BACKENDS',
    'aggregate',
    'are_numbers',
    'attention_logits',
    'attention_path',
    'available_backends',
    'backend',
    'ceil_div',
    'check_integers',
    'check_torch',
    'check_window',
    'constants_recorded_once',
    'content_statistics',
    'contiguous',
    'coordinate_map',
    'dense_attention',
    'dense_kernels',
    'feature_projection',
    'grouped_kernels',
    'is_compiling',
    'is_exporting',
    'is_integer',
    'is_transforming',
    'kernel_offsets',
    'mix',
    'neighborhood_attention',
    'padding_to_multiple',
    'position_logits',
    'position_statistics',
    'reflect',
    'register_load_state_dict_pre_hook',
    'related',
    'relative_attention',
    'relative_positions',
    'shift_and_sum',
    'shift_kernels',
    'shifted',
    'stacked',
    'sum_paths',
    'unfused_attention',
    'window_positions',
    'windows',
]
