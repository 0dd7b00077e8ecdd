"""'auto' takes the kernels only where they have proved right, and says why where it does not; GPUs are pretended."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from mmacmix.ops import available_backends, backend, functional, neighborhood_attention
from mmacmix.ops.backends import choice
from tests.conftest import needs_torch
from tests.ops.maps import random_maps
from tests.tooling import python

pytestmark = needs_torch('2.4', 'the Triton backend')
CPU = torch.device('cpu')
CASE = CPU, torch.float32, 4, (3, 1, 1)


@pytest.fixture
def gpu(monkeypatch):
    """CPU tensors count as on a GPU, on which the kernels run in Triton's interpreter."""
    monkeypatch.setattr(choice, '_failures', {})
    monkeypatch.setattr(choice, 'runs_kernels', lambda device: True)
    monkeypatch.setattr(functional, 'available_backends', lambda device: ('triton', 'tiles', 'reference'))
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Abacus 3000')


@pytest.fixture
def kernels(monkeypatch, gpu):
    """Replaces the kernels by the reference, which a test may spoil, and counts their calls."""

    def attend(query, key, value, kernel_size, stride, dilation, *terms):
        kernels.calls += 1
        window = kernel_size, stride, dilation
        return kernels.spoil(choice._by_reference(query, key, value, *terms, window).to(query.dtype))

    kernels = SimpleNamespace(
        neighborhood_attention=attend, supports=lambda *case: True, spoil=lambda out: out, calls=0
    )
    monkeypatch.setattr(choice, '_kernels', lambda: kernels)
    return kernels


@pytest.mark.parametrize('window', [(3, 1, 1), (3, 2, 1)])
def test_right_kernels_are_chosen(gpu, window):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert choice.choose(CPU, torch.float32, 4, window) == 'triton'


def test_each_case_is_checked_once(kernels):
    for dtype in (torch.float32, torch.float16, torch.float32):
        assert choice.choose(CPU, dtype, 4, (3, 1, 1)) == 'triton'
    assert kernels.calls == 2


@pytest.mark.parametrize(
    'context', [torch.inference_mode, torch.no_grad, lambda: torch.autocast('cpu', torch.bfloat16)]
)
def test_contexts_of_the_caller_do_not_matter(kernels, context):
    with context():
        assert choice.choose(*CASE) == 'triton'


def raise_error(out):
    raise RuntimeError('no kernel image is available\nsecond line')


@pytest.mark.parametrize('spoil, reason', [
    (raise_error, 'RuntimeError: no kernel image is available.'),
    (lambda out: out * 1.1, 'the output of a small case has an error of 1.0e-01'),
    (lambda out: out + out.detach(), 'the output of a small case has an error of 1.0e'),
    (lambda out: out * 2 - out.detach(), 'the gradient of query of a small case has an error of 1.0e'),
    (lambda out: out * float('nan'), 'the output of a small case has an error of nan'),
])  # yapf: disable
def test_wrong_kernels_are_not_used_and_one_warning_says_why(kernels, monkeypatch, spoil, reason):
    monkeypatch.setenv('RANK', '3')
    kernels.spoil = spoil
    with pytest.warns(UserWarning) as caught:
        assert choice.choose(*CASE) == 'tiles'
    (message,) = (str(each.message) for each in caught)
    assert 'Abacus 3000, rank 3 for torch.float32, head_dim 4' in message and reason in message
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert choice.choose(*CASE) == 'tiles'


def test_kernels_are_not_asked_for_what_they_do_not_support(kernels):
    kernels.supports = lambda *case: False
    assert choice.choose(*CASE) == 'tiles'
    assert not kernels.calls


def test_nothing_is_computed_while_a_graph_is_captured(kernels, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    with pytest.raises(RuntimeError, match='run the network once before capturing a CUDA graph'):
        choice.choose(*CASE)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    choice.choose(*CASE)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert choice.choose(*CASE) == 'triton'


@pytest.mark.parametrize('capability, hip, expected', [
    ((9, 0), None, True), ((8, 0), None, True), ((7, 5), None, False), ((9, 4), '6.0', False),
])  # yapf: disable
def test_gpus_that_are_considered(monkeypatch, capability, hip, expected):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.version, 'hip', hip)
    assert choice.runs_kernels(torch.device('cuda')) is expected
    assert not choice.runs_kernels(CPU)
    assert available_backends('cuda')[0] == ('triton' if expected else 'tiles')


def test_a_context_and_the_environment_override_the_choice(gpu, monkeypatch):
    maps = random_maps((1, 1, 4, 5, 5), dtype=torch.float32)[:3]
    for name in ('tiles', 'reference', 'triton'):
        with backend(name):
            assert choice.choose(*CASE) == name
            with backend('auto'):
                assert choice.choose(*CASE) == 'triton'
        torch.testing.assert_close(neighborhood_attention(*maps, 3, backend=name), neighborhood_attention(*maps, 3))
    with pytest.raises(ValueError, match="backend must be 'auto' or one of .*'abacus'"), backend('abacus'):
        pass
    code = """
        import torch
        from mmacmix.ops.backends.choice import choose
        print(choose(torch.device('cpu'), torch.float32, 4, (3, 1, 1)))
    """
    monkeypatch.setenv('MMACMIX_BACKEND', 'reference')
    assert python(code).stdout.strip() == 'reference'
    monkeypatch.setenv('MMACMIX_BACKEND', 'abacus')
    assert "MMACMIX_BACKEND must be 'auto' or one of" in python(code).stderr


def test_compilers_record_the_chosen_kernels(gpu):
    maps = random_maps((1, 1, 4, 5, 6), dtype=torch.float32)[:3]
    graphs = []

    def record(module, inputs):
        graphs.append(module)
        return module

    compiled = torch.compile(lambda *maps: neighborhood_attention(*maps, 3), backend=record, fullgraph=True)
    torch.testing.assert_close(compiled(*maps), neighborhood_attention(*maps, 3, backend='reference'))
    assert any('mmacmix' in str(node.target) for node in graphs[0].graph.nodes)
