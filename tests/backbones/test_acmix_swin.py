"""ACmix-Swin: equality with the published network and the hosts' Swin, checkpoints of other sizes, conversion."""

import pytest
import torch
from torch import nn

from mmacmix.backbones import ACmixSwinTransformer
from mmacmix.checkpoints import convert
from mmacmix.layers import WindowACmix
from tests import golden


def small(**arguments):
    arch = dict(embed_dims=16, depths=(2, 2, 2), num_heads=(1, 2, 4))
    return ACmixSwinTransformer(**{'arch': arch, 'window_size': 4, 'out_indices': (0, 1, 2), **arguments})


HOST_SMALL = dict(
    embed_dims=16, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=4, strides=(4, 2, 2), out_indices=(0, 1, 2)
)


def plain_swin(**arguments):
    from mmdet.models.backbones import SwinTransformer

    torch.manual_seed(0)
    network = SwinTransformer(**arguments)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    network.eval()
    return network


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_equals_the_published_network(dtype):
    case = golden.load('swin_tiny')
    network = ACmixSwinTransformer('tiny').to(dtype).eval()
    network.load_state_dict(convert(case.state_dict, 'acmix-swin'))
    tokens = {}

    def keep(name):
        return lambda module, inputs, output: tokens.__setitem__(name, output)

    for stage, merging in enumerate(network.downsamples):
        merging.register_forward_hook(keep(f'stage{stage}'))
    network.stages[3][-1].register_forward_hook(keep('stage3'))
    with torch.no_grad():
        last = network(case.x.to(dtype))[-1]
    tokens['stage4'] = last.permute(0, 2, 3, 1)
    for name in ('stage0', 'stage1', 'stage2', 'stage3', 'stage4'):
        thinned = tokens[name].flatten(1, 2)[..., :: case.arguments['channel_stride']]
        assert golden.relative_error(thinned, case.results[name]) <= (1e-5 if dtype == torch.float32 else 1e-6), name
    head = [case.state_dict[f'head.{leaf}'] for leaf in ('weight', 'bias')]
    logits = nn.functional.linear(last.mean((2, 3)).double(), *head)
    assert golden.relative_error(logits, case.results['logits']) <= 1e-5


@pytest.mark.parametrize('arch, parameters', [('tiny', 28_649_908), ('small', 50_345_080)])
def test_has_the_published_number_of_parameters(arch, parameters):
    backbone = sum(p.numel() for p in ACmixSwinTransformer(arch, out_indices=(3,)).parameters())
    head = 768 * 1000 + 1000
    assert backbone + head == parameters


@pytest.mark.parametrize('height, width', [(224, 224), (193, 257), (96, 800)])
def test_plain_swin_converted_equals_the_hosts_plain_swin(height, width):
    host = plain_swin()
    network = ACmixSwinTransformer('tiny').eval()
    network.load_state_dict(convert(host.state_dict(), 'swin'))
    images = torch.randn(1, 3, height, width)
    with torch.no_grad():
        for actual, expected in zip(network(images), host(images), strict=True):
            assert actual.shape == expected.shape
            assert golden.relative_error(actual, expected.double()) <= 1e-5


def test_gradients_equal_the_hosts_plain_swin():
    arguments = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2), out_indices=(0, 1))
    host = plain_swin(**arguments, window_size=4, strides=(4, 2), drop_path_rate=0.0, use_abs_pos_embed=False).double()
    ours = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
    network = ACmixSwinTransformer(ours, window_size=4, out_indices=(0, 1), drop_path_rate=0.0).double().eval()
    network.load_state_dict(convert(host.state_dict(), 'swin'))
    images = torch.randn(1, 3, 37, 50, dtype=torch.float64)
    for model in (host, network):
        sum(m.square().sum() for m in model(images)).backward()
    # Conversion renames and reorders gradients as it does weights.
    renamed = convert({name: p.grad for name, p in host.named_parameters()}, 'swin')
    for name, parameter in network.named_parameters():
        if not name.split('.attn.')[-1].startswith(('shift_conv', 'attention_rate', 'conv_rate')):
            torch.testing.assert_close(parameter.grad, renamed[name], msg=name)


def test_images_of_a_batch_do_not_mix():
    network = small().eval()
    images = torch.rand(3, 3, 40, 52)
    for together, alone in zip(network(images), network(images[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)


def test_out_indices():
    network = small(out_indices=(1,))
    assert [m.shape[1] for m in network(torch.rand(1, 3, 64, 64))] == [32]
    assert not hasattr(network, 'norm0') and hasattr(network, 'norm1')


def test_the_checkpoint_of_a_classifier_fits_any_out_indices():
    classifier = small(out_indices=(2,))
    network = small(out_indices=(0, 2))
    network.load_state_dict(classifier.state_dict())
    assert torch.equal(network.norm2.weight, classifier.norm2.weight)
    small(out_indices=(1,)).load_state_dict(classifier.state_dict())


def test_absolute_position_embedding_is_resized_to_the_image_and_from_a_checkpoint():
    network = small(use_abs_pos_embed=True, pretrain_img_size=(32, 48)).eval()
    assert network.absolute_pos_embed.shape == (1, 16, 8, 12)
    row = torch.linspace(0, 1, 12)
    network.absolute_pos_embed.data = row.expand(1, 16, 8, 12).contiguous()
    seen = []
    network.drop.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.zeros(1, 3, 64, 96)
    network(images)
    added = seen[0] - network.patch_embed(images)
    assert added.shape == (1, 16, 24, 16)
    assert (added.diff(dim=2)[:, :, 2:-2] > 0).all() and added.diff(dim=1).abs().max() < 1e-5

    other = small(use_abs_pos_embed=True, pretrain_img_size=64)
    other.load_state_dict(network.state_dict())
    assert other.absolute_pos_embed.shape == (1, 16, 16, 16)
    assert (other.absolute_pos_embed.diff(dim=3)[..., 2:-2] > 0).all()


def test_a_checkpoint_with_another_window_size_is_loaded():
    small(window_size=5).load_state_dict(small(window_size=4).state_dict())


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_norms_merging_and_position_embedding_freeze_with_their_stages(frozen):
    network = small(frozen_stages=frozen, use_abs_pos_embed=True).train()
    assert network.absolute_pos_embed.requires_grad == (frozen < 0)
    for stage in range(3):
        for module in (getattr(network, f'norm{stage}'), *network.downsamples[stage : stage + 1]):
            assert {p.requires_grad for p in module.parameters()} == {frozen <= stage}


def test_drop_path_increases_with_depth_and_drops_whole_images():
    network = small(drop_path_rate=0.5)
    rates = [block.drop_path.drop_prob for stage in network.stages for block in stage]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    torch.manual_seed(0)
    block = network.stages[2][1].train()
    x = torch.rand(64, 4, 4, 64)
    unchanged = (block(x) == x).flatten(1).all(1).float().mean().item()
    assert 0.1 < unchanged < 0.45  # both branches dropped: 0.25


def test_initialisation():
    network = small()
    network.init_weights()
    attention = network.stages[1][0].attn
    assert attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.2) and not attention.qkv.bias.any()
    assert attention.attention_rate == attention.conv_rate == 0.5
    assert torch.equal(attention.shift_conv.weight, WindowACmix(32, 2).shift_conv.weight)


@pytest.mark.parametrize('published', [True, False])
def test_convert_weights_loads_an_unconverted_file(tmp_path, published):
    state_dict = golden.load('swin_tiny').state_dict if published else plain_swin().state_dict()
    torch.save(dict(model=state_dict), tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    network = ACmixSwinTransformer('tiny', convert_weights=True, init_cfg=init_cfg)
    network.init_weights()
    converted = convert(state_dict, 'acmix-swin' if published else 'swin')
    for name, tensor in network.state_dict().items():
        if name in converted and (published or '.shift_conv.' not in name):
            assert torch.equal(tensor, converted[name].to(tensor)), name


@pytest.mark.parametrize(
    'acmix',
    [
        dict(rates=(1, 0), learn_rates=False),
        dict(rates=(0, 1), learn_rates=False),
        dict(rates=(0.5, 0.5), learn_rates=False),
        dict(shift_form='depthwise'),
        dict(shift_form='frozen'),
    ],
)
def test_every_variant_starts_from_plain_weights(tmp_path, acmix):
    host = plain_swin(**HOST_SMALL)
    torch.save(host.state_dict(), tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    network = small(acmix=acmix, convert_weights=True, init_cfg=init_cfg).eval()
    network.init_weights()
    layer = network.stages[1][1].attn
    assert torch.equal(layer.qkv.weight, host.stages[1].blocks[1].attn.w_msa.qkv.weight)
    rates = acmix.get('rates', (1, 0))  # learned rates start as those of the plain network
    assert (layer.attention_rate.item(), layer.conv_rate.item()) == rates
    if rates == (1, 0):
        images = torch.rand(1, 3, 50, 70)
        for actual, expected in zip(network(images), host(images), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_missing_or_needless_conversion_is_named(tmp_path):
    torch.save(plain_swin(**HOST_SMALL).state_dict(), tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match=r'has \d+ of the \d+ tensors .* or convert_weights=True'):
        small(init_cfg=init_cfg).init_weights()
    torch.save(small().state_dict(), tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='if it is already converted, set convert_weights=False'):
        small(convert_weights=True, init_cfg=init_cfg).init_weights()


def test_a_network_of_another_size_is_refused_in_one_line(tmp_path):
    torch.save(golden.load('swin_tiny').state_dict, tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match=r'does not fit this ACmixSwinTransformer: .* and \d+ more') as caught:
        small(convert_weights=True, init_cfg=init_cfg).init_weights()
    assert '\n' not in str(caught.value)


def test_weights_under_a_prefix_are_converted(tmp_path):
    host = plain_swin(**HOST_SMALL)
    torch.save({f'encoder.{name}': tensor for name, tensor in host.state_dict().items()}, tmp_path / 'weights.pth')
    for prefix in ('encoder', 'encoder.'):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'), prefix=prefix)
        network = small(convert_weights=True, init_cfg=init_cfg)
        network.init_weights()
        assert torch.equal(network.patch_embed.projection.weight, host.patch_embed.projection.weight)


@pytest.mark.parametrize('size', [(32, 72), (32, 48), (64, 64)])
def test_an_absolute_position_embedding_keeps_its_rows_and_columns(size):
    arguments = dict(use_abs_pos_embed=True, pretrain_img_size=size)
    host = plain_swin(**HOST_SMALL | arguments)
    network = small(**arguments).eval()
    network.load_state_dict(convert(host.state_dict(), 'swin'))
    images = torch.rand(1, 3, *size)
    for actual, expected in zip(network(images), host(images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_position_embedding_of_unknown_shape_is_refused():
    host = plain_swin(**HOST_SMALL, use_abs_pos_embed=True, pretrain_img_size=(32, 48))
    with pytest.raises(ValueError, match='96 positions, which is not a square: set pretrain_img_size'):
        small(use_abs_pos_embed=True, pretrain_img_size=64).load_state_dict(convert(host.state_dict(), 'swin'))


def test_convert_weights_refuses_another_network(tmp_path):
    torch.save(golden.load('resnet26').state_dict, tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match="not a checkpoint of 'swin': unknown keys: "):
        ACmixSwinTransformer('tiny', convert_weights=True, init_cfg=init_cfg).init_weights()


def test_tracing_with_fake_tensors_leaves_no_fake_buffers():
    from torch._subclasses import FakeTensorMode

    network = small()
    with FakeTensorMode(allow_non_fake_inputs=True):
        network(torch.rand(1, 3, 36, 36))
    assert all(m.isfinite().all() for m in network(torch.rand(1, 3, 36, 36)))


def test_arguments_that_the_network_sets_are_refused_for_its_layers():
    with pytest.raises(TypeError, match='shift_size'):
        small(acmix=dict(shift_size=1))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(arch='huge'), r"arch must be one of \('tiny', 'small', 'base'\) or a dict of embed_dims, .* got 'huge'"),
        (dict(arch=dict(embed_dims=8)), r"arch must be .* dict of .* got {'embed_dims': 8}"),
        (dict(arch=dict(embed_dims=8, depths=(2,), num_heads=(1, 2))), 'num_heads of arch must have as many entries'),
        (dict(arch=dict(embed_dims=9, depths=(2,), num_heads=(2,)), out_indices=(0,)), 'channels must be a multiple'),
        (dict(window_size=0), 'window_size must be a positive integer, got 0'),
        (dict(mlp_ratio=0), 'mlp_ratio must be a number of at least 1 / 16, got 0'),
        (dict(pretrain_img_size=3), 'pretrain_img_size must be one integer or two, at least patch_size 4, got 3'),
        (dict(convert_weights=True, init_cfg=dict(type='Xavier')), "convert_weights needs init_cfg=dict.*'Xavier'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
