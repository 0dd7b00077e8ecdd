"""The Triton kernels equal the reference, on a GPU if present, else in Triton's interpreter (see conftest.py)."""

import random

import pytest
import torch

from mmacmix.ops import available_backends, coordinate_map, neighborhood_attention
from mmacmix.ops.backends import reference
from tests.conftest import DEVICE, needs_torch
from tests.ops.maps import random_maps

pytestmark = needs_torch('2.4', 'the Triton backend')
if torch.__version__ >= '2.4':
    from mmacmix.ops.backends import triton_kernels


def attend_with_terms(query, key, value, *window_and_terms):
    """The reference, with the terms of the ACmix layer as the layer computes them."""
    *window, query_bias, position, rate = window_and_terms
    coordinates = coordinate_map(key[:, 0])
    key = key - torch.einsum('dc,bcyx->bdyx', position, coordinates)[:, None]
    return rate * reference.neighborhood_attention(query + query_bias[..., None, None], key, value, *window)


def random_terms(heads, head_dim):
    shapes = (heads, head_dim), (head_dim, 2), (1,)
    return [torch.randn(shape, dtype=torch.float64).to(DEVICE, torch.float32) for shape in shapes]


def results(attend, maps, window, terms=(), dtype=None):
    """Output and gradients of the first three maps and of the terms, computed in ``dtype``."""
    *inputs, grad = [each.detach().to(dtype or each.dtype) for each in maps]
    terms = [each.detach().to(dtype or each.dtype) for each in terms]
    inputs = [each.requires_grad_() for each in (*inputs, *terms)]
    out = attend(*inputs[:3], *window, *inputs[3:])
    return out, *torch.autograd.grad(out, inputs, grad)


def check(maps, window, terms=()):
    """Compare the kernels in float32 with the definition in float64."""
    definition = attend_with_terms if terms else reference.neighborhood_attention
    actual = results(triton_kernels.neighborhood_attention, maps, window, terms)
    expected = results(definition, maps, window, terms, torch.float64)
    in_float32 = results(definition, maps, window, terms)
    names = 'output', 'query', 'key', 'value', 'query_bias', 'position', 'rate'
    for name, ours, theirs, truth in zip(names, actual, in_float32, expected, strict=False):
        assert ours.shape == truth.shape and ours.dtype == torch.float32
        error, rounding = ((each.double() - truth).abs().max().item() for each in (ours, theirs))
        # Where terms cancel, for example on maps of one pixel, where most gradients are zero, no computation in float32
        # is that exact. The error of the reference in float32, which shares no code with the kernels, bounds these.
        bound = max(1e-5 * truth.abs().max().item(), 2 * rounding)
        if name == 'rate':
            # One number, of which a single error says little. Adding in any order errs by no more than this.
            terms_of_sum = expected[0] * maps[3].double() / terms[2].double()
            bound = max(bound, torch.finfo(torch.float32).eps * terms_of_sum.nan_to_num().abs().sum().item())
        assert error <= bound, (name, error, bound)


def random_case(seed):
    """Shape, window, memory format, whether with terms, and whether with the tiles of tensor cores."""
    generator = random.Random(seed)
    while True:
        batch, heads = generator.choice([(1, 1), (1, 1), (1, 2), (2, 1), (2, 3)])
        head_dim = generator.choice([1, 2, 3, 4, 8, 16, 17, 20, 32, 33, 64, 100, 128, 256])
        height, width = generator.randint(1, 17), generator.randint(1, 17)
        kernel_size, stride, dilation = generator.choice([1, 3, 5, 7, 9]), *generator.choices([1, 2, 3], [3, 2, 1], k=2)
        flags = [generator.random() < 0.5 for _ in range(3)]
        tiles = sum((side // (8 * dilation) + 1) * dilation for side in (height, width)) ** 2 / 4
        if batch * heads * tiles * (kernel_size + 3) < 60:  # the interpreter is slow
            return (batch, heads, head_dim, height, width), (kernel_size, stride, dilation), *flags


@pytest.mark.parametrize(
    'seed', [pytest.param(seed, marks=[pytest.mark.slow] * (seed not in (4, 12))) for seed in range(220)]
)
def test_random_cases_equal_the_definition(seed, monkeypatch):
    shape, window, channels_last, has_terms, wide_tiles = random_case(seed)
    torch.manual_seed(seed)
    if wide_tiles:
        monkeypatch.setattr(triton_kernels, '_SCALAR', triton_kernels._TENSOR_CORES)
    maps = random_maps(shape, window[1], torch.float32, channels_last, DEVICE)
    check(maps, window, random_terms(*shape[1:3]) if has_terms else ())


# Shape, and kernel size, stride, dilation: several tiles, partial tiles, maps smaller than the window, all residues.
CASES = [
    pytest.param((1, 1, 4, 9, 10), (7, 1, 1), marks=pytest.mark.slow),
    pytest.param((2, 2, 5, 3, 4), (3, 1, 1), marks=pytest.mark.slow),
    ((1, 2, 20, 5, 6), (3, 1, 1)),
    ((1, 1, 4, 9, 7), (3, 2, 1)),
    pytest.param((1, 1, 4, 5, 3), (3, 1, 2), marks=pytest.mark.slow),
    ((1, 1, 4, 2, 3), (3, 1, 2)),
    pytest.param((1, 1, 4, 8, 7), (3, 2, 2), marks=pytest.mark.slow),
    pytest.param((1, 1, 4, 5, 7), (3, 2, 3), marks=pytest.mark.slow),
    ((1, 1, 4, 1, 5), (3, 1, 1)),
    pytest.param((1, 1, 4, 2, 2), (7, 1, 1), marks=pytest.mark.slow),
    pytest.param((1, 1, 4, 3, 19), (15, 1, 1), marks=pytest.mark.slow),
]


@pytest.mark.parametrize('shape, window', CASES)
@pytest.mark.parametrize('has_terms', [pytest.param(False, marks=pytest.mark.slow), True])
def test_equals_the_definition(shape, window, has_terms):
    maps = random_maps(shape, window[1], torch.float32, device=DEVICE)
    check(maps, window, random_terms(*shape[1:3]) if has_terms else ())


def test_rate_of_zero_has_a_gradient():
    maps = random_maps((1, 2, 4, 3, 4), dtype=torch.float32, device=DEVICE)
    *terms, rate = random_terms(2, 4)
    check(maps, (3, 1, 1), (*terms, torch.zeros_like(rate)))


def test_window_of_one_key_is_constant_in_query_and_key():
    maps = random_maps((1, 1, 4, 3, 4), dtype=torch.float32, device=DEVICE)
    gradients = results(triton_kernels.neighborhood_attention, maps, (1, 1, 1), random_terms(1, 4))[1:]
    for index in (0, 1, 3, 4):  # query, key, query_bias, position
        assert not gradients[index].any()


def test_terms_come_together():
    maps = random_maps((1, 1, 4, 3, 3), dtype=torch.float32, device=DEVICE)
    bias, position, _ = random_terms(1, 4)
    with pytest.raises(ValueError, match='together or not at all'):
        triton_kernels.neighborhood_attention(*maps[:3], 3, 1, 1, bias, position)


def test_channels_last_memory_is_kept():
    maps = random_maps((1, 2, 4, 5, 4), dtype=torch.float32, channels_last=True, device=DEVICE)
    actual = results(triton_kernels.neighborhood_attention, maps, (3, 1, 1))
    for result, given in zip(actual, [maps[0], *maps[:3]], strict=True):
        assert result.stride() == given.stride()


def slices_of_a_projection(channels, heads, height, width):
    """Query, key and value as slices of one channels_last map."""
    projection = torch.randn(2, 3 * channels, height, width).to(DEVICE, memory_format=torch.channels_last)
    return [each.unflatten(1, (heads, -1)) for each in projection.chunk(3, 1)]


def is_dense_channels_last(x):
    return x.flatten(1, 2).is_contiguous(memory_format=torch.channels_last)


def test_slices_of_a_projection_give_dense_channels_last_maps():
    maps = [*slices_of_a_projection(8, 2, 2, 3), torch.randn(2, 2, 4, 2, 3, device=DEVICE)]
    terms = random_terms(2, 4)
    out, *gradients = results(triton_kernels.neighborhood_attention, maps, (3, 1, 1), terms)
    assert all(map(is_dense_channels_last, (out, *gradients[:3])))
    check(maps, (3, 1, 1), terms)


def test_shapes_and_strides_are_known_to_compilers():
    from torch._subclasses import FakeTensorMode

    maps, terms = slices_of_a_projection(8, 2, 3, 5), random_terms(2, 4)
    with FakeTensorMode() as mode:
        inputs = [mode.from_tensor(each).requires_grad_() for each in (*maps, *terms)]
        out = triton_kernels.neighborhood_attention(*inputs[:3], 3, 1, 1, *inputs[3:])
        gradients = torch.autograd.grad(out, inputs, torch.empty_like(out))
    assert out.shape == maps[0].shape
    assert [each.shape for each in gradients] == [each.shape for each in inputs]
    assert all(map(is_dense_channels_last, (out, *gradients[:3])))


@pytest.mark.parametrize(
    'dtype', [torch.float16] + [torch.bfloat16] * (DEVICE.type == 'cuda')
)  # not in the interpreter
@pytest.mark.parametrize('has_terms', [False, True])
def test_narrow_types_accumulate_in_float32(dtype, has_terms):
    maps = random_maps((1, 1, 8, 4, 9), dtype=dtype, device=DEVICE)
    terms = random_terms(1, 8) if has_terms else ()
    definition = attend_with_terms if has_terms else reference.neighborhood_attention
    inputs = [each.detach().requires_grad_() for each in (*maps[:3], *terms)]  # terms remain in float32
    out = triton_kernels.neighborhood_attention(*inputs[:3], 5, 1, 1, *inputs[3:])
    actual = out, *torch.autograd.grad(out, inputs, maps[3])
    expected = results(definition, maps, (5, 1, 1), terms, torch.float64)
    for ours, truth, given in zip(actual, expected, [maps[0], *inputs], strict=True):
        assert ours.dtype == given.dtype
        bound = 8 * torch.finfo(dtype).eps
        if has_terms:  # some gradients of terms are sums over all pixels
            bound *= max(1, truth.abs().max().item())
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=bound)


@pytest.mark.parametrize('has_terms', [False, True])
def test_operator_is_registered_correctly(has_terms):
    inputs = [each.requires_grad_() for each in random_maps((1, 1, 4, 2, 3), dtype=torch.float32, device=DEVICE)[:3]]
    terms = [each.requires_grad_() for each in random_terms(1, 4)] if has_terms else []
    arguments = [each[:, None] for each in inputs], 3, 1, 1, *(terms or [None] * 3)
    torch.library.opcheck(torch.ops.mmacmix.neighborhood_attention, arguments)


def test_is_available_on_gpus_except_in_float64():
    assert set(available_backends('cuda')) == {'tiles', 'triton', 'reference'}
    assert available_backends('cpu') == ('tiles', 'reference')
    maps = random_maps((1, 1, 4, 3, 3), device=DEVICE)[:3]
    with pytest.raises(
        ValueError, match=r"one of \('tiles', 'reference'\) on .* in torch.float64 with head_dim 4 and .*, got 'triton'"
    ):
        neighborhood_attention(*maps, 3, backend='triton')


def test_supports_what_fits_in_shared_memory():
    for head_dim in (1, 16, 128, 256):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert triton_kernels.supports(head_dim, dtype, 7, 1, 1)
            assert triton_kernels.supports(head_dim, dtype, 7, 2, 1)
    assert triton_kernels.supports(64, torch.float32, 7, 3, 2)
    assert not triton_kernels.supports(16, torch.float64, 7, 1, 1)
    assert not triton_kernels.supports(16, torch.int32, 7, 1, 1)
    assert not triton_kernels.supports(257, torch.float16, 7, 1, 1)
    assert not triton_kernels.supports(256, torch.float32, 31, 1, 1)
    maps = random_maps((1, 1, 300, 2, 2), dtype=torch.float32, device=DEVICE)[:3]
    with pytest.raises(ValueError, match='does not support head_dim 300 in torch.float32 with kernel_size 3'):
        triton_kernels.neighborhood_attention(*maps, 3, 1, 1)


def set_precision(name, value):
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, 'fp32_precision') or name == 'allow_tf32':
        setattr(matmul, name, value)
    else:
        pytest.skip('torch.backends.cuda.matmul.fp32_precision needs torch 2.9')


@pytest.fixture
def precision_settings():
    """Undo a test's settings of matrix products."""
    yield
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = False
    if hasattr(matmul, 'fp32_precision'):
        matmul.fp32_precision = 'none'


@pytest.mark.parametrize(
    'name, value, expected',
    [
        ('allow_tf32', True, 'tf32'),
        ('allow_tf32', False, 'ieee'),
        ('fp32_precision', 'tf32', 'tf32'),
        ('fp32_precision', 'ieee', 'ieee'),
    ],
)
def test_precision_follows_either_setting_of_torch(name, value, expected, precision_settings):
    set_precision(name, value)
    assert triton_kernels.float32_precision() == expected
