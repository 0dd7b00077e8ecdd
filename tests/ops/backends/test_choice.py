"""'auto' takes the kernels only where they have proved right, and says why where it does not.

The device is a GPU if there is one, else the CPU, which then counts as a GPU.
"""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmacmix.ops import attention_path, available_backends, backend, coordinate_map, functional, neighborhood_attention
from mmacmix.ops.backends import choice, reference
from tests.conftest import DEVICE, needs_torch
from tests.ops.maps import random_maps
from tests.tooling import python

pytestmark = needs_torch('2.4', 'the Triton backend')
CASE = DEVICE, torch.float32, 4, (3, 1, 1)


def unchanged(argument):
    return argument


@pytest.fixture
def gpu(monkeypatch):
    """The kernels should serve on the device."""
    monkeypatch.setattr(choice, '_failures', {})
    monkeypatch.setattr(choice, 'runs_kernels', lambda device: True)
    monkeypatch.setattr(functional, 'available_backends', lambda device: ('triton', 'tiles', 'reference'))
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Abacus 3000')


@pytest.fixture
def kernels(monkeypatch, gpu):
    """Replaces the kernels by plain operations, whose inputs and outputs a test may spoil, and counts their calls."""
    from mmacmix.ops.backends import triton_sum

    def attend(maps, *window_and_terms):
        kernels.calls += 1
        *window, query_bias, position, rate = window_and_terms
        parts = [part for each in maps for part in each.unbind(1)]
        query, key, value, query_bias, position, rate = kernels.spoil_inputs([*parts, query_bias, position, rate])
        query_bias, position = query_bias.to(query.dtype), position.to(query.dtype)
        query = query + query_bias[..., None, None]
        key = key - torch.einsum('dc,bcyx->bdyx', position, coordinate_map(key[:, 0]))[:, None]
        return kernels.spoil((rate * reference.neighborhood_attention(query, key, value, *window)).to(maps[0].dtype))

    kernels = SimpleNamespace(
        attend_to_maps=attend, supports=lambda *case: True, float32_precision=lambda: kernels.precision,
        precision='ieee', spoil=unchanged, spoil_inputs=unchanged, spoil_sum=unchanged, calls=0,
    )  # fmt: skip
    add = triton_sum.sum_paths
    monkeypatch.setattr(triton_sum, 'sum_paths', lambda *inputs: add(*kernels.spoil_sum(list(inputs[:5])), *inputs[5:]))
    monkeypatch.setattr(choice, '_kernels', lambda: kernels)
    return kernels


@pytest.mark.parametrize('window', [(3, 1, 1), (3, 2, 1), (1, 1, 1)])
def test_right_kernels_are_chosen(gpu, window):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert choice.choose(DEVICE, torch.float32, 4, window) == 'triton'


def test_each_case_is_checked_once(kernels):
    cases = [
        CASE, (DEVICE, torch.float16, 4, (3, 1, 1)), (DEVICE, torch.float32, 5, (3, 1, 1)),
        *((DEVICE, torch.float32, 4, window) for window in ((5, 1, 1), (3, 2, 1), (3, 1, 2))),
    ]  # fmt: skip
    for number, case in enumerate(cases):
        assert choice.choose(*case) == 'triton'
        assert kernels.calls == number + 1
    kernels.precision = 'tf32'  # other kernels, for float32 only
    for case in cases[:2]:
        assert choice.choose(*case) == 'triton'
    assert kernels.calls == len(cases) + 1
    for case in cases:
        choice.choose(*case)
    assert kernels.calls == len(cases) + 1 + 4


def test_each_gpu_is_checked(kernels, monkeypatch):
    checked = []
    monkeypatch.setattr(choice, 'failure_of', lambda kernels, device, *case: checked.append(device))
    for _ in range(2):
        for device in (torch.device('cuda', 0), torch.device('cuda', 1)):
            choice.choose(device, *CASE[1:])
    assert checked == [torch.device('cuda', 0), torch.device('cuda', 1)]


@pytest.mark.parametrize('stride', [1, 2])
def test_the_maps_of_the_check_lie_in_memory_as_those_of_a_layer(gpu, monkeypatch, stride):
    from mmacmix.ops.backends import triton_kernels

    seen = []
    attend = triton_kernels.attend_to_maps

    def record(maps, *arguments, **terms):
        seen.append([(each.stride()[2:], each.dtype) for each in (*maps[0].unbind(1), maps[-1][:, -1])])
        return attend(maps, *arguments, **terms)

    monkeypatch.setattr(triton_kernels, 'attend_to_maps', record)
    x = torch.randn(1, 24, 11, 19).to(DEVICE, memory_format=torch.channels_last)
    # One weight, as of layers on GPUs.
    weight, bias, position, position_bias = (torch.randn(size, device=DEVICE) for size in ((6, 4, 24), 24, (4, 2), 4))
    attention_path(x, [weight], [bias], position, position_bias, None, 2, 3, stride, 1, 'auto')
    assert len(seen) == 2 and seen[0] == seen[1]


@pytest.mark.parametrize(
    'context',
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast(DEVICE.type, torch.bfloat16),
        lambda: torch.autograd.graph.saved_tensors_hooks(raise_error, raise_error),
    ],
)
def test_contexts_of_the_caller_do_not_matter(kernels, context):
    with context():
        assert choice.choose(*CASE) == 'triton'


def raise_error(out):
    raise RuntimeError('no kernel image is available\nsecond line')


@pytest.mark.parametrize('spoil, reason', [
    (raise_error, 'RuntimeError: no kernel image is available.'),
    (lambda out: out * 1.1, 'the output of a small case has an error of 1.0e-01'),
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


def with_double_gradient(index):
    def spoil(inputs):
        inputs[index] = 2 * inputs[index] - inputs[index].detach()
        return inputs

    return spoil


@pytest.mark.parametrize('index, name', enumerate(['query', 'key', 'value', 'query_bias', 'position', 'rate']))
def test_every_gradient_is_checked(kernels, index, name):
    kernels.spoil_inputs = with_double_gradient(index)
    with pytest.warns(UserWarning, match=f': the gradient of {name} of a small case has an error of 1.0e'):
        assert choice.choose(*CASE) == 'tiles'


@pytest.mark.parametrize('index', range(6))
def test_every_input_matters_to_the_output(kernels, index):
    def ignore(inputs):
        inputs[index] = inputs[index] - inputs[index].detach()
        return inputs

    kernels.spoil_inputs = ignore
    with pytest.warns(UserWarning, match=': the output of a small case has an error of '):
        assert choice.choose(*CASE) == 'tiles'


@pytest.mark.parametrize('index, name', enumerate(['attention', 'convolution', 'taps', 'bias', 'rate']))
def test_the_kernel_that_adds_the_paths_is_checked(kernels, index, name):
    kernels.spoil_sum = with_double_gradient(index)
    with pytest.warns(UserWarning, match=f': the gradient of {name} in the sum of the paths of a small case'):
        assert choice.choose(*CASE) == 'tiles'


def test_a_broken_triton_is_named_once(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    monkeypatch.delitem(sys.modules, 'mmacmix.ops.backends.triton_kernels', raising=False)
    monkeypatch.delattr('mmacmix.ops.backends.triton_kernels', raising=False)
    choice._kernels.cache_clear()
    maps = random_maps((1, 1, 4, 5, 5), dtype=torch.float32, device=DEVICE)[:3]
    try:
        with pytest.warns(
            UserWarning, match="The backend 'triton' cannot be imported: ModuleNotFoundError: "
        ) as caught:
            assert choice.choose(*CASE) == 'tiles'
            for name in ('auto', 'tiles', 'reference'):
                neighborhood_attention(*maps, 3, backend=name)
        assert len(caught) == 1
        with pytest.raises(ValueError, match=r"one of \('tiles', 'reference'\) .*, got 'triton'"):
            neighborhood_attention(*maps, 3, backend='triton')
    finally:
        choice._kernels.cache_clear()


def test_a_checkpoint_around_the_first_step_changes_nothing(gpu):
    maps = [each.requires_grad_() for each in random_maps((1, 1, 4, 5, 5), dtype=torch.float32, device=DEVICE)[:3]]
    calls = []

    def block(*maps):
        calls.append(maps)
        return neighborhood_attention(*maps, 3)

    out = checkpoint(block, *maps, use_reentrant=False)
    assert len(calls) == 1  # the check recomputed nothing
    gradients = torch.autograd.grad(out.sum(), maps)
    assert len(calls) == 2
    expected = torch.autograd.grad(neighborhood_attention(*maps, 3, backend='reference').sum(), maps)
    for actual, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, truth)


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
    assert not choice.runs_kernels(torch.device('cpu'))
    assert available_backends('cuda')[0] == ('triton' if expected else 'tiles')


def test_a_context_and_the_environment_override_the_choice(gpu, monkeypatch):
    maps = random_maps((1, 1, 4, 5, 5), dtype=torch.float32, device=DEVICE)[:3]
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
    maps = random_maps((1, 1, 4, 5, 6), dtype=torch.float32, device=DEVICE)[:3]
    graphs = []

    def record(module, inputs):
        graphs.append(module)
        return module

    compiled = torch.compile(lambda *maps: neighborhood_attention(*maps, 3), backend=record, fullgraph=True)
    torch.testing.assert_close(compiled(*maps), neighborhood_attention(*maps, 3, backend='reference'))
    assert any('mmacmix' in str(node.target) for node in graphs[0].graph.nodes)
