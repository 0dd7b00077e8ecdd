"""What all backbones share: registration, sizes, frozen stages, recomputation, pretrained weights, checks of input."""

import math

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmacmix import backbones
from mmacmix.backbones.base import BackboneBlock, resolve_arch
from tests import golden

RESNET = dict(depth=26, base_channels=16)
SMALL = {
    'ACmixResNet': RESNET,
    'LESAResNet': RESNET,
    'XVolutionResNet': RESNET,
    'ACmixSAN': dict(depth=10, base_channels=32, kernel_sizes=(3,) * 5),
    'ACmixSwinTransformer': dict(
        arch=dict(embed_dims=16, depths=(2, 2, 2), num_heads=(1, 2, 4)), window_size=4, out_indices=(0, 1, 2)
    ),
    'ACmixPyramidVisionTransformer': dict(
        arch=dict(depths=(1, 2, 1), embed_dims=(8, 16, 24), num_heads=(1, 2, 3), mlp_ratios=(2, 2, 2)),
        out_indices=(0, 1, 2),
    ),
}
CHANNELS = {
    'ACmixSAN': (128, 256, 512, 1024),
    'ACmixSwinTransformer': (16, 32, 64),
    'ACmixPyramidVisionTransformer': (8, 16, 24),
}


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


@pytest.fixture
def build(name):
    """Builds a small network of one class."""
    return lambda **arguments: MODELS.build(dict(type=name) | SMALL[name] | arguments)


def test_every_backbone_is_registered_under_its_name_and_tested_here(name, build):
    assert type(build()) is getattr(backbones, name)
    assert {*SMALL, 'ResNet'} == set(backbones.__all__)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('batch, height, width', [(1, 1, 1), (3, 5, 7), (2, 64, 4), (1, 33, 130), (0, 32, 40)])
def test_any_size(name, build, batch, height, width, dtype):
    maps = build().to(dtype).eval()(torch.rand(batch, 3, height, width, dtype=dtype))
    channels = CHANNELS.get(name, (64, 128, 256, 512))
    assert len(maps) == len(channels)
    for stage, m in enumerate(maps):
        if name == 'ACmixPyramidVisionTransformer':  # drops incomplete patches
            sides = [max(1, side // 2 ** (stage + 2)) for side in (height, width)]
        else:
            sides = [math.ceil(side / 2 ** (stage + 2)) for side in (height, width)]
        assert m.shape == (batch, channels[stage], *sides)
        assert m.isfinite().all() and m.dtype == dtype and m.is_contiguous()


def test_out_indices_select_the_maps(build):
    images = torch.rand(1, 3, 64, 64)
    network = build(out_indices=(1, 2)).eval()
    other = build(out_indices=(2,)).eval()
    other.load_state_dict(network.state_dict())
    maps, (last,) = network(images), other(images)
    assert len(maps) == 2 and maps[0].shape[2] == 2 * last.shape[2]
    assert torch.equal(maps[1], last)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_frozen_stages_do_not_train(build, frozen):
    network = build(frozen_stages=frozen).train()
    stages = [getattr(network, name) for name in getattr(network, 'res_layers', [])] or network.stages
    stems = {'conv1', 'bn1', 'stem', 'patch_embed', 'patch_embeds'} & {name for name, _ in network.named_children()}
    for name in stems:
        stem = network.patch_embeds[0] if name == 'patch_embeds' else network.get_submodule(name)
        assert {p.requires_grad for p in stem.parameters()} == {frozen < 0}
        assert stem.training == (frozen < 0 and not (isinstance(stem, _BatchNorm) and network.norm_eval))
    for index, stage in enumerate(stages):
        assert {p.requires_grad for p in stage.parameters()} == {frozen <= index}
        assert stage.training == (frozen <= index)


@pytest.mark.parametrize('norm_eval', [True, False])
@pytest.mark.parametrize('name', ['ACmixResNet', 'ACmixSAN'], indirect=True)
def test_norm_eval_fixes_the_statistics(build, norm_eval):
    network = build(norm_eval=norm_eval).train()
    assert {m.training for m in network.modules() if isinstance(m, _BatchNorm)} == {not norm_eval}


def test_with_cp_recomputes_activations_and_changes_no_gradient(build):
    plain, recomputed = build().double(), build(with_cp=True).double()
    recomputed.load_state_dict(plain.state_dict())
    images, results, calls = torch.rand(2, 3, 64, 64, dtype=torch.float64), [], []
    for network in (plain, recomputed):
        block = next(m for m in network.modules() if isinstance(m, BackboneBlock))
        count = []
        next(block.children()).register_forward_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(0)
        loss = sum(m.square().mean() for m in network.train()(images))
        results.append([loss, *torch.autograd.grad(loss, list(network.parameters()))])
        calls.append(len(count))
    assert calls == [1, 2]
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_pretrained_weights_are_loaded_from_the_part_with_the_prefix(build, tmp_path):
    source = build()
    state_dict = {f'backbone.{name}': tensor for name, tensor in source.state_dict().items()}
    torch.save(dict(state_dict=state_dict), tmp_path / 'weights.pth')
    network = build(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'), prefix='backbone.'))
    network.init_weights()
    for name, tensor in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.parametrize('name', ['ACmixResNet'], indirect=True)
def test_a_checkpoint_that_hardly_fits_is_refused(build, tmp_path):
    def load(**init_cfg):
        build(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'), **init_cfg)).init_weights()

    torch.save(golden.load('resnet26').state_dict, tmp_path / 'weights.pth')
    message = r'weights\.pth has none of the \d+ tensors of this ACmixResNet: a published one needs'
    with pytest.raises(ValueError, match=message):
        load()
    state_dict = {f'backbone.{name}': tensor for name, tensor in build().state_dict().items()}
    torch.save(dict(state_dict=state_dict), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=r"init_cfg needs prefix='backbone\.'"):
        load()
    load(prefix='backbone')
    state_dict.pop('backbone.conv1.weight')
    torch.save(dict(state_dict=state_dict), tmp_path / 'weights.pth')
    load(prefix='backbone.')
    with pytest.raises(ValueError, match=r"no weights whose names start with 'neck\.'"):
        load(prefix='neck')
    with pytest.raises(ValueError, match='init_cfg must name a checkpoint'):
        build(init_cfg=dict(type='Pretrained')).init_weights()


def test_shift_kernels_survive_initialisation(name, build):
    network = build()
    kernels = {key: each.clone() for key, each in network.state_dict().items() if key.endswith('shift_conv.weight')}
    assert bool(kernels) == name.startswith('ACmix')
    network.init_weights()
    for key, kernel in kernels.items():
        assert torch.equal(network.state_dict()[key], kernel), key


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(in_channels=0), 'in_channels must be a positive integer, got 0'),
        (dict(out_indices=1), 'out_indices must name stages 0 to [234], got 1'),
        (dict(out_indices=()), r'out_indices must name stages 0 to [234], got \(\)'),
        (dict(out_indices=(0, 5)), r'out_indices must name stages 0 to [234], got \(0, 5\)'),
        (dict(frozen_stages=6), 'frozen_stages must be -1 to [345], got 6'),
    ],
)
def test_bad_arguments_are_named(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_other_input_than_images_is_refused(build):
    network = build()
    with pytest.raises(TypeError, match='x must be a tensor, got list'):
        network([1])
    for shape in ((3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)):
        with pytest.raises(ValueError, match=r'x must be images \(B, 3, H, W\), H and W at least 1, got '):
            network(torch.rand(shape))


ARCH = dict(settings=dict(tiny=dict(depths=(1, 2), width=8)), defaults=dict(heads=(1, 2, 4)))


def test_an_architecture_is_resolved_by_name_or_completed():
    assert resolve_arch('tiny', **ARCH) == dict(depths=(1, 2), width=8, heads=(1, 2))
    assert resolve_arch(dict(depths=[3], width=4, heads=[5]), **ARCH) == dict(depths=[3], width=4, heads=[5])


@pytest.mark.parametrize(
    'arch, message',
    [
        ('huge', r"arch must be one of \('tiny',\) or a dict of depths, width and optionally heads, got 'huge'"),
        (dict(depths=(1,)), r"arch must be .* got {'depths': \(1,\)}"),
        (dict(depths=(1,), width=8, surprise=1), 'arch must be .* got'),
        (dict(depths=3, width=8), 'depths of arch must have an entry for each of 1 stages, got 3'),
        (dict(depths=(1, 0), width=8), 'depths of arch must be a positive integer for each stage'),
        (dict(depths=(1, 2), width=0), 'width of arch must be a positive integer, got 0'),
        (dict(depths=(1, 2), width=8, heads=(1,)), 'heads of arch must have an entry for each of 2 stages'),
        (
            dict(depths=(1,), width=8, heads=(1, 2)),
            r'heads of arch must have as many entries as depths, 1, got \(1, 2\)',
        ),
    ],
)
def test_bad_architectures_are_named(arch, message):
    with pytest.raises(ValueError, match=message):
        resolve_arch(arch, **ARCH)


def test_scripting_is_refused_in_one_sentence(name, build):
    with pytest.raises(
        NotImplementedError, match=f'{name} cannot be compiled by torch.jit.script; use torch.jit.trace'
    ):
        torch.jit.script(build())
