"""Constants are computed once a size, for few sizes at a time, and apart while something is being recorded."""

import torch

from mmacmix.ops.constants import _MOST_SIZES, constant


@constant
def ramp(device, length):
    return torch.arange(length, device=device)


def test_equal_sizes_share_a_tensor():
    assert ramp(torch.rand(1), 5) is ramp(torch.rand(1), 5)
    assert ramp(torch.rand(1), 4).tolist() == [0, 1, 2, 3]


def test_only_the_last_sizes_are_kept():
    first = ramp(torch.rand(1), 1)
    for length in range(2, _MOST_SIZES + 1):
        ramp(torch.rand(1), length)
    assert ramp(torch.rand(1), 1) is first  # used again, so the oldest is now another
    for length in range(_MOST_SIZES + 1, 2 * _MOST_SIZES + 1):
        ramp(torch.rand(1), length)
    assert ramp(torch.rand(1), 1) is not first


def test_a_constant_from_inference_serves_training():
    with torch.inference_mode():
        made = ramp(torch.rand(1), 7)
    assert not made.is_inference()


def test_cuda_graphs_have_constants_of_their_own(monkeypatch):
    # A cached tensor may be freed before a graph runs again, and one made during a capture has no values until then.
    before = ramp(torch.rand(1), 6)
    monkeypatch.setattr('mmacmix.ops.constants._is_capturing', lambda device: True)
    assert ramp(torch.rand(1), 6) is not before
    monkeypatch.undo()
    assert ramp(torch.rand(1), 6) is before
