"""Errors of the operator, layers and backbones against float64; mixed-precision and deterministic training."""

import copy
from itertools import islice

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed

from mmacmix.backbones import (
    ACmixPyramidVisionTransformer,
    ACmixResNet,
    ACmixSAN,
    ACmixSwinTransformer,
    LESAResNet,
    XVolutionResNet,
)
from mmacmix.datasets import write_shapes
from mmacmix.inference import build_model
from mmacmix.layers import LESA, ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, XVolution
from mmacmix.ops import available_backends, neighborhood_attention
from tests.conftest import SINGLE, TINY, needs_torch, tiny_config
from tests.golden import relative_error

BACKENDS = available_backends('cpu')
# More of float16 than single operators need (tests.conftest.HALF).
HALF = [pytest.param(torch.float16, marks=needs_torch('2.13', 'float16 on CPUs')), torch.bfloat16]
DTYPES = [torch.float32, *HALF]
# Of the largest error relative to the largest exact value; docs/backends.md states them.
OPERATOR_BOUNDS = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYER_BOUNDS = {torch.float32: 1e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
BACKBONE_BOUNDS = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

LAYERS = {
    **{
        f'ACmix, {backend}, stride {stride}': (
            lambda stride=stride, backend=backend: ACmix(16, 16, stride=stride, backend=backend),
            (2, 16, 17, 13),
        )
        for backend in BACKENDS
        for stride in (1, 2)
    },
    'WindowACmix': (lambda: WindowACmix(16, 4, shift_size=3), (2, 17, 13, 16)),
    'SpatialReductionACmix': (lambda: SpatialReductionACmix(16, 4, sr_ratio=2), (2, 17, 13, 16)),
    'PatchwiseACmix': (lambda: PatchwiseACmix(16, 16), (2, 16, 17, 13)),
    'XVolution': (lambda: XVolution(16, 16), (2, 16, 17, 13)),
    'LESA': (lambda: LESA(16, 16), (2, 16, 17, 13)),
}
BACKBONES = {
    'ACmixResNet': lambda: ACmixResNet(26, base_channels=8),
    'ACmixSwinTransformer': lambda: ACmixSwinTransformer(
        dict(embed_dims=16, depths=(2, 2, 2), num_heads=(1, 2, 4)), out_indices=(0, 1, 2)
    ),
    'ACmixPyramidVisionTransformer': lambda: ACmixPyramidVisionTransformer(
        dict(depths=(1, 2, 1), embed_dims=(8, 16, 24), num_heads=(1, 2, 3)), out_indices=(0, 1, 2)
    ),
    'ACmixSAN': lambda: ACmixSAN(10, base_channels=32),
    'XVolutionResNet': lambda: XVolutionResNet(26, base_channels=8),
    'LESAResNet': lambda: LESAResNet(26, base_channels=16),
}


def assert_within(bound, results, truths, dtype):
    for actual, truth in zip(results, truths, strict=True):
        assert actual.dtype == dtype
        assert relative_error(actual, truth) <= bound


def exact(module, x):
    """The output in float64, with the rounded weights and input."""
    return copy.deepcopy(module).double()(x.double())


@pytest.mark.parametrize('scale', [1, 3])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('backend', BACKENDS)
def test_operator_and_gradients_stay_within_their_bounds(backend, dtype, scale):
    maps = [(scale * torch.randn(2, 3, 16, 23, 31)).to(dtype).requires_grad_() for _ in range(3)]
    weight = torch.randn(maps[0].shape).to(dtype)
    out = neighborhood_attention(*maps, backend=backend)
    results = out, *torch.autograd.grad((out * weight).sum(), maps)
    precise = [each.detach().double().requires_grad_() for each in maps]
    out = neighborhood_attention(*precise, backend='reference')
    truths = out, *torch.autograd.grad((out * weight.double()).sum(), precise)
    assert_within(OPERATOR_BOUNDS[dtype], results, truths, dtype)


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('backend', BACKENDS)
def test_large_maps_overflow_neither_forward_nor_backward(backend, dtype):
    maps = [(1e4 * torch.empty(2, 3, 16, 11, 14).uniform_(-1, 1)).to(dtype).requires_grad_() for _ in range(3)]
    out = neighborhood_attention(*maps, backend=backend)
    gradients = torch.autograd.grad(out, maps, torch.randn(out.shape).to(dtype))
    assert all(each.isfinite().all() for each in (out, *gradients))
    truth = neighborhood_attention(*(each.detach().double() for each in maps), backend='reference')
    assert relative_error(out, truth) <= OPERATOR_BOUNDS[dtype]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', LAYERS)
def test_layers_stay_within_their_bounds(name, dtype):
    build, shape = LAYERS[name]
    layer, x = build().to(dtype), torch.randn(shape).to(dtype).requires_grad_()
    out = layer(x)
    assert out.dtype == dtype and relative_error(out, exact(layer, x)) <= LAYER_BOUNDS[dtype]
    out.float().square().sum().backward()
    assert all(each.grad.dtype == dtype and each.grad.isfinite().all() for each in (x, *layer.parameters()))


@needs_torch('2.13', 'float16 on CPUs')
@pytest.mark.parametrize('name', LAYERS)
def test_large_activations_do_not_overflow_in_float16(name):
    build, shape = LAYERS[name]
    largest = 200 if name == 'XVolution' else 1e4  # the layer multiplies two activations
    layer, x = build().half(), largest * torch.empty(shape).uniform_(-1, 1)
    x = x.half().requires_grad_()
    assert exact(layer, x).abs().max() < torch.finfo(torch.float16).max  # float16 can represent it
    out = layer(x)
    assert out.isfinite().all()
    out.backward(1e-4 * torch.randn(out.shape).half())
    assert all(each.grad.isfinite().all() for each in (x, *layer.parameters()))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_stay_within_their_bounds(name, dtype):
    network, images = BACKBONES[name]().eval().to(dtype), torch.randn(2, 3, 61, 75).to(dtype)
    with torch.no_grad():
        maps, truths = network(images), exact(network, images)
    assert_within(BACKBONE_BOUNDS[dtype], maps, truths, dtype)


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_stay_within_their_bounds_under_autocast(name, dtype):
    network, images = BACKBONES[name]().eval(), torch.randn(2, 3, 61, 75)
    with torch.no_grad():
        truths = exact(network, images)
    network.zero_grad()
    with torch.autocast('cpu', dtype):
        maps = network(images)
    for actual, truth in zip(maps, truths, strict=True):
        assert relative_error(actual.detach(), truth) <= BACKBONE_BOUNDS[dtype]
    sum(each.float().square().mean() for each in maps).backward()
    assert all(each.grad.dtype == torch.float32 and each.grad.isfinite().all() for each in network.parameters())


@pytest.mark.parametrize('backend', BACKENDS)
def test_gradients_of_a_layer_equal_finite_differences(backend):
    layer = ACmix(1, 2, stride=2, num_heads=2, attention_kernel_size=3, backend=backend).double()
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.fixture(scope='module')
def batches(request, tmp_path_factory):
    """The config of a host's small network, and two batches of training data."""
    root = tmp_path_factory.mktemp('shapes')
    write_shapes(root, train=4, val=1, size=64)
    options = {'train_dataloader.batch_size': 2, 'train_dataloader.dataset.data_root': str(root)}
    cfg = tiny_config(request.param, SINGLE | options)
    init_default_scope(cfg.default_scope)
    set_random_seed(0)  # for the augmentation
    return cfg, list(islice(Runner.build_dataloader(cfg.train_dataloader, seed=0), 2))


def train(cfg, batches, steps, dtype=None):
    """Losses, final weights and final loss scale of a few steps; with a dtype, in mixed precision.

    MMEngine's ``AmpOptimWrapper`` needs a GPU, so this does the same on the CPU. (The detector needs a GPU in any case:
    MMCV's ``nms`` supports float16 only there.)
    """
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler('cpu') if dtype else torch.cuda.amp.GradScaler(enabled=False)
    losses = []
    for step in range(steps):
        with torch.autocast('cpu', dtype, enabled=dtype is not None):
            data = model.data_preprocessor(copy.deepcopy(batches[step % len(batches)]), training=True)
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model.state_dict(), scaler.get_scale()


@needs_torch('2.3', 'scaling losses on CPUs')
@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('batches', ['mmseg'], indirect=True)
def test_mixed_precision_trains_like_single_precision(batches, dtype):
    losses, weights, scale = train(*batches, 12, dtype)
    assert all(torch.tensor(losses).isfinite()) and scale >= 1
    assert all(each.isfinite().all() for each in weights.values())
    expected, *_ = train(*batches, 12)
    assert losses[0] == pytest.approx(expected[0], rel=0.02)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]) and sum(losses[-4:]) == pytest.approx(sum(expected[-4:]), rel=0.2)


@pytest.mark.parametrize('batches', TINY, indirect=True)
def test_deterministic_training_is_reproducible(batches):
    torch.use_deterministic_algorithms(True)
    try:
        (losses, weights, _), (_, again, _) = (train(*batches, 3) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.tensor(losses).isfinite())
    assert all(torch.equal(weights[name], again[name]) for name in weights)
