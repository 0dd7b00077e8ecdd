import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmacmix.backbones import ACmixPyramidVisionTransformer
from mmacmix.checkpoints import convert
from tests import golden


def small(**arguments):
    arch = dict(depths=(1, 2, 1), embed_dims=(8, 16, 24), num_heads=(1, 2, 3), mlp_ratios=(2, 2, 2))
    return ACmixPyramidVisionTransformer(**{'arch': arch, 'out_indices': (0, 1, 2), **arguments})


@pytest.fixture(scope='module')
def host():
    from mmdet.models.backbones import PyramidVisionTransformer

    torch.manual_seed(0)
    network = PyramidVisionTransformer(num_layers=(2, 2, 2, 2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    network.eval()
    return network


@pytest.mark.parametrize('height, width', [(224, 224), (200, 333), (64, 96)])
def test_plain_pvt_converted_equals_the_hosts_plain_pvt(host, height, width):
    network = ACmixPyramidVisionTransformer('tiny').eval()
    network.load_state_dict(convert(host.state_dict(), 'pvt'))
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        for actual, expected in zip(network(images), host(images), strict=True):
            assert actual.shape == expected.shape
            assert golden.relative_error(actual, expected.double()) <= 1e-5


# Those of a classifier: the normalisation of the last stage, the token and its place, and the head on top.
@pytest.mark.parametrize('arch, published', [('tiny', 13), ('small', 25)])
def test_number_of_parameters_rounds_to_the_published_one(arch, published):
    backbone = sum(p.numel() for p in ACmixPyramidVisionTransformer(arch).parameters())
    assert round((backbone + 4 * 512 + 512 * 1000 + 1000) / 1e6) == published


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('batch, height, width', [(1, 1, 1), (3, 5, 7), (2, 64, 4), (1, 33, 130)])
def test_any_size(batch, height, width, dtype):
    network = small().to(dtype).eval()
    maps = network(torch.rand(batch, 3, height, width, dtype=dtype))
    for stage, m in enumerate(maps):
        sides = [max(1, side // 2 ** (stage + 2)) for side in (height, width)]
        assert m.shape == (batch, (8, 16, 24)[stage], *sides)
        assert m.isfinite().all() and m.dtype == dtype and m.is_contiguous()


def test_position_embeddings_of_another_size_are_resized():
    checkpoint = small(pretrain_img_size=64)
    network = small(pretrain_img_size=96)
    checkpoint.patch_embeds[1].position.data = torch.linspace(0, 1, 8).expand(1, 16, 8, 8).contiguous()
    network.load_state_dict(checkpoint.state_dict())
    position = network.patch_embeds[1].position
    assert position.shape == (1, 16, 12, 12)
    assert (position.diff(dim=3)[..., 1:-1] > 0).all() and position.diff(dim=2).abs().max() < 1e-6


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_frozen_stages_do_not_train(frozen):
    network = small(frozen_stages=frozen, drop_path_rate=0.5).train()

    def trains(module):
        return any(p.requires_grad for p in module.parameters())

    for stage in range(3):
        assert trains(network.stages[stage]) == network.stages[stage].training == (frozen <= stage)
        assert trains(network.patch_embeds[stage]) == (frozen <= stage and not (stage == 0 and frozen == 0))


def test_with_cp_changes_nothing_but_memory():
    plain, checkpointed = small(), small(with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 48, 40)
    results = []
    for network in (plain.eval(), checkpointed.eval()):
        loss = sum(m.square().mean() for m in network(images))
        results.append([loss, *torch.autograd.grad(loss, list(network.parameters()))])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_initialisation():
    network = small()
    network.init_weights()
    attention = network.stages[1][0].attn
    assert attention.query.weight.std().item() == pytest.approx(0.02, rel=0.2)
    fan_out = 8 * 4 * 4
    assert network.patch_embeds[0].projection.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)
    assert attention.shift_conv.weight[0, 5].nonzero().tolist() == [[1, 2]]


def test_convert_weights_loads_an_unconverted_file(tmp_path, host):
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in host.state_dict().items()}), tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    network = ACmixPyramidVisionTransformer('tiny', convert_weights=True, init_cfg=init_cfg)
    network.init_weights()
    for name, tensor in convert(host.state_dict(), 'pvt').items():
        assert '.shift_conv.' in name or torch.equal(network.state_dict()[name], tensor), name


def test_is_registered_under_its_name():
    assert MODELS.get('ACmixPyramidVisionTransformer') is ACmixPyramidVisionTransformer


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(arch='huge'), "arch must be one of .*'tiny', 'small', 'medium', 'large'.* got 'huge'"),
        (dict(arch=dict(embed_dims=(8,))), r"arch must be .* dict of depths, .* got {'embed_dims': \(8,\)}"),
        (dict(arch=dict(depths=(1, 1), num_heads=(1,))), 'an entry for each of 2 stages'),
        (dict(out_indices=(0, 3)), r'out_indices must name stages 0 to 2, got \(0, 3\)'),
        (dict(patch_sizes=(4, 2)), r'patch_sizes must have an entry for each of 3 stages, got \(4, 2\)'),
        (dict(convert_weights=True, init_cfg=dict(type='Xavier')), "convert_weights needs init_cfg=dict.*'Xavier'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
