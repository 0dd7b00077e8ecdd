"""Maps become contiguous with equal values and gradients."""

import pytest
import torch

from mmacmix.ops import contiguous


@pytest.mark.parametrize('size', [(2, 3, 5, 7), (1, 200, 41, 33), (0, 4, 3, 3), (2, 1, 4, 4)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_channels_last_becomes_contiguous_with_gradients(size, dtype):
    x = torch.rand(size, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = contiguous(x, torch.contiguous_format)
    assert out.is_contiguous() and torch.equal(out, x)
    weight = torch.rand(size, dtype=dtype)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    assert torch.equal(gradient, weight)


def test_other_conversions_equal_those_of_torch():
    x = torch.rand(2, 3, 5, 7)
    assert contiguous(x, torch.contiguous_format) is x
    assert contiguous(x, torch.channels_last).is_contiguous(memory_format=torch.channels_last)
    view = x[:, :, ::2, 1:]
    assert torch.equal(contiguous(view, torch.contiguous_format), view)
