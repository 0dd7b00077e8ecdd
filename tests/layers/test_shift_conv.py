"""The forms of the convolution path agree with each other."""

import pytest
import torch

from mmacmix.layers import ACmix, shift_conv
from tests.layers.definitions import randomised


@pytest.mark.parametrize('shift_form', ['group', 'depthwise', 'frozen'])
@pytest.mark.parametrize('arguments', [dict(), dict(stride=2), dict(dilation=2), dict(kernel_size=5, num_heads=2)])
@pytest.mark.parametrize('size', [(9, 12), (1, 3)])
def test_dense_and_factored_forms_agree_with_gradients(monkeypatch, shift_form, arguments, size):
    layer = randomised(ACmix(6, 8, shift_form=shift_form, **arguments))
    x = torch.rand(2, 6, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for cost in (-1e9, 1e9):  # factored, dense
        monkeypatch.setattr(shift_conv, 'GROUPED_COST', cost)
        out = layer(x)
        leaves = [x, *layer.parameters()]
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for factored, dense in zip(*results, strict=True):
        torch.testing.assert_close(dense, factored, rtol=1e-10, atol=1e-10)
