"""Launches and bytes equal counts by hand; the table of the package's operators equals what they do when they run."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmacmix.layers import ACmix
from mmacmix.ops import available_backends, neighborhood_attention
from mmacmix.reporting import launches
from mmacmix.reporting.launches import Operation, count_launches, group_operations, summarize
from tests.conftest import needs_torch

pytestmark = needs_torch('2.4', 'counting launches')

FLOAT = 4  # bytes


def counted(module, *inputs, backward=False):
    """Launches, bytes read and bytes written of each operation."""
    return [each[1:4] for each in count_launches(module, inputs, backward)]


def totals(module, *inputs, backward=False):
    return tuple(map(sum, zip(*counted(module, *inputs, backward=backward), strict=True)))


def zeros(*shape, **options):
    return torch.zeros(shape, device='meta', **options)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_convolution_is_a_launch_and_its_bias_another(dtype):
    x, weight, out, size = 2 * 3 * 8 * 8, 4 * 3 * 9, 2 * 4 * 8 * 8, dtype.itemsize
    images = zeros(2, 3, 8, 8, dtype=dtype)
    plain = nn.Conv2d(3, 4, 3, padding=1, bias=False).to(dtype)
    assert counted(plain, images) == [(1, (x + weight) * size, out * size)]
    biased = nn.Conv2d(3, 4, 3, padding=1).to(dtype)
    assert counted(biased, images) == [(2, (x + weight + out + 4) * size, 2 * out * size)]


def test_the_gradient_of_a_convolution_is_a_launch_per_gradient():
    x, weight, out = 2 * 3 * 8 * 8, 4 * 3 * 9, 2 * 4 * 8 * 8
    layer = nn.Conv2d(3, 4, 3, padding=1)
    gradients = {
        False: (2, (out + x) + out, weight + 4),
        True: (3, (out + weight) + (out + x) + out, x + weight + 4),
    }
    for of_input, (number, read, written) in gradients.items():
        images = zeros(2, 3, 8, 8, requires_grad=of_input)
        operations = counted(layer, images, backward=True)
        assert operations[1] == (number, read * FLOAT, written * FLOAT)
    layer.weight.requires_grad_(False)
    assert counted(layer, images, backward=True)[1] == (2, (out + weight + out) * FLOAT, (x + 4) * FLOAT)


def test_a_linear_layer_and_an_activation():
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
    assert counted(network, zeros(5, 8)) == [
        (1, (16 + 5 * 8 + 8 * 16) * FLOAT, 5 * 16 * FLOAT),
        (1, 5 * 16 * FLOAT, 5 * 16 * FLOAT),
    ]
    # Backward: the activation, two products (the input has no gradient: one), and the sum over the rows for the bias.
    assert totals(network, zeros(5, 8), backward=True)[0] == 2 + 1 + 1 + 1
    assert totals(network, zeros(5, 8, requires_grad=True), backward=True)[0] == 2 + 1 + 2 + 1


def test_concatenation_reads_and_writes_everything():
    assert counted(lambda a, b: torch.cat([a, b]), zeros(3, 5), zeros(2, 5)) == [(1, 25 * FLOAT, 25 * FLOAT)]


def test_views_and_uninitialised_tensors_launch_nothing():
    def views(x):
        x.new_empty(3), torch.empty_like(x)
        return x.view(5, 3).t().unsqueeze(0).expand(4, 3, 5)[:, 1:].unflatten(2, (1, 5)).detach()

    assert counted(views, zeros(3, 5)) == []


def test_what_is_repeated_is_read_once():
    assert counted(lambda x: x.expand(7, 5) + 1, zeros(1, 5)) == [(1, 5 * FLOAT, 35 * FLOAT)]
    windows = zeros(10).as_strided((8, 3), (1, 1))
    assert counted(lambda x: x.as_strided((8, 3), (1, 1)) + 1, windows[:, 0]) == [(1, 10 * FLOAT, 24 * FLOAT)]


def test_results_that_are_only_written_are_not_read():
    x = zeros(3, 5)
    assert counted(lambda x: x.clone().add_(1), x)[1:] == [(1, 15 * FLOAT, 15 * FLOAT)]
    assert counted(lambda x: x.zero_(), x) == [(1, 0, 15 * FLOAT)]
    assert counted(lambda x: torch.zeros(4, device=x.device), x) == [(1, 0, 16)]
    assert counted(lambda x: x[:2].copy_(x[1:]), x) == [(1, 10 * FLOAT, 10 * FLOAT)]
    assert counted(lambda x: torch.mul(x, x, out=torch.empty_like(x)), x) == [(1, 30 * FLOAT, 15 * FLOAT)]
    a, b = zeros(2, 3, 5), zeros(2, 5, 4)
    product = counted(lambda a, b: torch.bmm(a, b, out=a.new_empty(2, 3, 4)), a, b)
    assert product == [(1, (30 + 40) * FLOAT, 24 * FLOAT)]
    added = counted(lambda c, a, b: torch.baddbmm(c, a, b), zeros(4), a, b)
    assert added == [(2, (4 + 30 + 40 + 24) * FLOAT, 48 * FLOAT)]


def test_indexing_touches_what_is_chosen():
    index = torch.tensor([0, 2], device='meta')
    assert counted(lambda x, i: x[i], zeros(9, 5), index) == [(1, 10 * FLOAT + 16, 10 * FLOAT)]
    written = counted(lambda x, i, y: x.index_copy_(0, i, y), zeros(9, 5), index, zeros(2, 5))
    assert written == [(1, 10 * FLOAT + 16, 10 * FLOAT)]
    added = counted(lambda x, i, y: x.index_add_(0, i, y), zeros(9, 5), index, zeros(2, 5))
    assert added == [(1, 20 * FLOAT + 16, 10 * FLOAT)]


def test_copies_from_the_cpu_are_launches_and_work_on_the_cpu_is_not():
    assert counted(lambda x: torch.arange(6).mul(2).to(x.device), zeros(1)) == [(1, 0, 6 * 8)]


@pytest.mark.parametrize('keys, padding', [(64, 0), (62, 2)])
def test_attention_is_one_kernel_and_its_gradient_two(keys, padding):
    queries, channels = 32, 16
    # In the kernel's layout, so that the gradients are not copied.
    query, key, value = (
        zeros(2, length, 4, channels, requires_grad=True).transpose(1, 2) for length in (queries, keys, keys)
    )
    mask = zeros(queries, keys)

    def attend(query, key, value, mask):
        return F.scaled_dot_product_attention(query, key, value, mask)

    q, k, m, lse = 8 * queries * channels, 8 * keys * channels, queries * keys, 8 * queries
    # Rows of a mask start at multiples of 8 elements: others are copied into a padded mask, which is filled first.
    aligned = queries * (keys + padding)
    pad = [(2, m * FLOAT, (aligned + m) * FLOAT)] if padding else []
    forward = (1, (q + 2 * k + m) * FLOAT, (q + lse) * FLOAT)
    delta, gradients = (2 * q, lse), (2 * q + 2 * k + m + 2 * lse, q + 2 * k)
    read, written = (sum(parts) * FLOAT for parts in zip(delta, gradients, strict=True))
    assert counted(attend, query, key, value, mask, backward=True) == [*pad, forward, (2, read, written)]
    no_grad = counted(attend, query, key, value, mask)
    assert len(no_grad) == len(pad) + 1 and no_grad[-1][2] == q * FLOAT


def test_channels_last_is_kept_by_convolutions():
    formats = []
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3, groups=2))
    for layer in network:
        layer.register_forward_hook(lambda _, __, out: formats.append(out.stride(1)))
    count_launches(network, zeros(1, 4, 9, 9).contiguous(memory_format=torch.channels_last))
    assert formats and set(formats) == {1}


def test_tensors_claim_to_be_on_cuda_and_the_package_takes_them_for_it():
    seen = []

    def record(x):
        seen.append((x.device.type, x.is_cuda, x.to(x.device) is x, available_backends(x.device)))
        seen.append(torch.zeros(2, device='cuda').is_cuda)

    count_launches(record, zeros(3))
    assert seen[0] == ('cuda', True, True, available_backends('cuda')) and seen[1] is True
    assert zeros(3).device.type == 'meta' and not zeros(3).is_cuda


def test_a_module_and_its_gradients_are_left_alone():
    layer, x = nn.Linear(3, 3), torch.ones(2, 3, requires_grad=True)
    layer(x).sum().backward()
    before = layer.weight.grad.clone()
    first = count_launches(layer, x, backward=True)
    assert first == count_launches(layer, x, backward=True) and 'add_' not in {each.name for each in first}
    assert layer.weight.device.type == 'cpu' and torch.equal(layer.weight.grad, before)


def test_what_is_cached_by_size_is_not_counted():
    cache = {}

    def cached(x):
        if x.shape not in cache:
            cache[x.shape] = torch.arange(5, device=x.device)
        return x + cache[x.shape]

    assert [each.name for each in count_launches(cached, zeros(5))] == ['add']


def test_the_model_takes_the_larger_of_launches_and_bytes():
    small = [Operation('add', 2, 100, 100, ())]
    assert summarize(small) == (2, 200, 10e-6)
    large = [*small, Operation('mul', 1, 2_000_000_000, 999_999_800, ())]
    assert summarize(large) == (3, 3_000_000_000, pytest.approx(1e-3))
    assert summarize([]) == (0, 0, 0)


def test_equal_operations_are_grouped():
    a, b = Operation('add', 1, 2, 3, ((4,),)), Operation('add', 1, 2, 3, ((5,),))
    assert group_operations([a, b, a]) == [Operation('add', 2, 4, 6, ((4,),)), b]


@pytest.mark.parametrize('backward, number, gigabytes', [(False, 172, 3.54), (True, 416, 9.19)])
def test_a_plain_resnet(backward, number, gigabytes):
    """53 convolutions, 53 normalisations, 49 activations, 16 sums, pooling; counted by other code too."""
    from mmdet.models import ResNet

    images = zeros(1, 3, 800, 1344, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    network = ResNet(50, norm_eval=True).to(torch.bfloat16)
    network.train(backward)
    summary = summarize(count_launches(network, images, backward))
    assert summary.launches == number and summary.bytes / 1e9 == pytest.approx(gigabytes, rel=2e-3)


# -- the package's own operators -------------------------------------------------------------------


class Recorder:
    """Stands in for a Triton kernel, and notes the bytes of the tensors that each launch is given."""

    def __init__(self):
        self.moved = []

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **kwargs):
        self.moved.append(launches.size([args, kwargs]))


@pytest.fixture
def recorder(monkeypatch):
    """Takes the place of every kernel of the Triton backend."""
    pytest.importorskip('triton')
    recorder = Recorder()
    for module in ('triton_kernels', 'triton_sum'):
        module = importlib.import_module(f'mmacmix.ops.backends.{module}')
        for name, value in vars(module).copy().items():
            if type(value).__module__.startswith('triton') and hasattr(value, 'fn'):
                monkeypatch.setattr(module, name, recorder)
    return recorder


class Calls(TorchDispatchMode):
    """Notes the calls of the package's operators, with their results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if func.namespace == 'mmacmix':
            self.calls.append((func, args, results))
        return results


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_table_of_operators_equals_what_they_launch(dtype, stride, recorder):
    """Each kernel reads or writes each tensor that it is given once; the operations around kernels are counted."""
    from torch._library.custom_ops import OPDEFS

    layer = ACmix(32, 32, stride=stride, backend='triton').to('meta', dtype)
    with launches.pretended_gpu(), Calls() as mode:
        out = layer(zeros(2, 32, 20, 12, dtype=dtype))
        out.backward(torch.empty_like(out))
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith('mmacmix::')}
    assert {func._schema.name for func, *_ in mode.calls} == registered
    assert {f'mmacmix::{name}' for name in launches.OPERATORS} == registered
    for func, args, results in mode.calls:
        name = func._schema.name
        recorder.moved.clear()
        with launches.Counter() as around, torch.no_grad():
            OPDEFS[name]._init_fn(*args)  # what runs on a GPU
        around = summarize(around.operations)
        arguments = dict(zip((each.name for each in func._schema.arguments), args, strict=True))
        listed = launches.OPERATORS[name.removeprefix('mmacmix::')](arguments, results)
        assert recorder.moved and len(listed) == len(recorder.moved) + around.launches
        assert sum(each.read + each.written for each in listed) == sum(recorder.moved) + around.bytes


def test_the_package_reports_its_own_operators():
    pytest.importorskip('triton')
    names = [each.name for each in count_launches(ACmix(8, 8, backend='triton'), zeros(1, 8, 9, 9), backward=True)]
    assert names.count('neighborhood_attention') == names.count('neighborhood_attention_backward') == 1


@pytest.mark.parametrize('images, size', [(1, 2048), (3, 1200)])
def test_tiles_come_in_as_few_parts_as_the_kernels_take(images, size):
    """PyTorch's attention for CUDA takes 65,535 tiles of all images at most, and pads a mask that is not aligned."""
    operations = count_launches(lambda *maps: neighborhood_attention(*maps, 3), [zeros(images, 1, 1, size, size)] * 3)
    parts = [each for each in operations if 'efficient_attention' in each.name]
    tiles = [each.shapes[0][0] for each in parts]
    assert sum(tiles) == images * (size // 8) ** 2
    assert len(parts) == 2 and max(tiles) <= 65_535
    assert not [each for each in operations if each.name == 'constant_pad_nd']


def test_the_gpu_of_the_machine_does_not_matter(monkeypatch):
    pytest.importorskip('triton')
    layer, images = ACmix(8, 8, backend='triton'), zeros(1, 8, 9, 9)
    expected = count_launches(layer, images, backward=True)

    def invalid_device(device=None):
        raise AssertionError('Invalid device id')

    for name in ('is_available', 'is_initialized'):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    for name in ('get_device_properties', 'current_stream'):
        monkeypatch.setattr(torch.cuda, name, invalid_device)
    assert count_launches(layer, images, backward=True) == expected
