"""The operations that exporters record equal the reference; tests/deploy exports them."""

import pytest
import torch

from mmacmix.ops.backends import exportable, reference
from tests.ops.maps import random_maps


@pytest.mark.parametrize('height, width, kernel_size, stride, dilation', [
    (9, 11, 7, 1, 1), (8, 16, 7, 2, 1), (1, 1, 7, 1, 1), (2, 3, 9, 2, 1), (13, 9, 7, 2, 2), (6, 8, 1, 1, 1),
    (10, 37, 3, 3, 2),
])  # yapf: disable
def test_equals_the_reference(height, width, kernel_size, stride, dilation):
    maps = random_maps((2, 2, 3, height, width), stride)[:3]
    actual = exportable.neighborhood_attention(*maps, kernel_size, stride, dilation)
    expected = reference.neighborhood_attention(*maps, kernel_size, stride, dilation)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
