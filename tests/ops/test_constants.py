"""Constants are computed once per size, for few sizes at a time, and not cached while something is being recorded."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from mmacmix.ops.constants import _MOST_SIZES, constant, constants_recorded_once
from tests.conftest import needs_torch


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


@pytest.fixture
def cuda(monkeypatch):
    """A tensor that claims to be on a GPU, where a test sets the stream and whether a graph is captured."""
    cuda = SimpleNamespace(device=torch.device('cuda', 0), new_empty=torch.empty, stream=0, capturing=False)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: cuda.capturing)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: cuda.stream)
    return cuda


@constant
def ramp_on_cpu(device, length):
    return torch.arange(length)


@needs_torch('2.6', 'exporting a network')
def test_exporters_get_the_numbers_of_known_sizes_and_compute_others_once():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x + ramp(x, x.shape[0]) + ramp(x, x.shape[0])

    x, sizes = torch.rand(6), [{0: torch.export.Dim.DYNAMIC}]
    counts = []
    for dims in (None, sizes):
        with constants_recorded_once():
            exported = torch.export.export(Twice(), (x,), dynamic_shapes=dims)
        torch.testing.assert_close(exported.module()(x), x + 2 * torch.arange(6))
        counts.append(sum('arange' in str(node.target) for node in exported.graph.nodes))
    assert counts == [0, 1]
    assert exported.module()(torch.zeros(3)).tolist() == [0, 2, 4]


def test_cuda_graphs_have_constants_of_their_own(cuda):
    # A cached tensor may be freed before a graph runs again, and one made during a capture has no values until then.
    before = ramp_on_cpu(cuda, 6)
    cuda.capturing = True
    assert ramp_on_cpu(cuda, 6) is not before
    cuda.capturing = False
    assert ramp_on_cpu(cuda, 6) is before


def test_cuda_streams_have_constants_of_their_own(cuda):
    before = ramp_on_cpu(cuda, 6)
    cuda.stream = 1
    assert ramp_on_cpu(cuda, 6) is not before
    cuda.stream = 0
    assert ramp_on_cpu(cuda, 6) is before


@needs_torch('2.4', 'compiling without graph breaks')
@pytest.mark.parametrize('record', [
    lambda module, x: torch.compile(module, backend='eager', fullgraph=True)(x),
    lambda module, x: torch.compile(module, backend='aot_eager', fullgraph=True)(x),
    lambda module, x: torch.jit.trace(module, x, check_trace=False),
    lambda module, x: torch.export.export(module, (x,)),
])  # yapf: disable
def test_constants_that_were_recorded_do_not_serve_later(record):
    class Ramp(torch.nn.Module):
        def forward(self, x):
            return x + ramp(x, 9)

    ramp.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)  # compilers warn of caches
        record(Ramp(), torch.zeros(9))
    made = ramp(torch.zeros(9), 9)
    assert type(made) is torch.Tensor and made.tolist() == list(range(9))
    assert torch.equal(Ramp()(torch.zeros(9)), torch.arange(9.0))
