"""Whatever arguments an operator, a layer or a backbone is given: a result of the documented shape, or one clear error.

Each case starts from arguments that the docstrings allow. In every other one, one of them is replaced by a value that
they do not allow; the error must name it and its value.
"""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmacmix.backbones import (
    ACmixPyramidVisionTransformer,
    ACmixResNet,
    ACmixSAN,
    ACmixSwinTransformer,
    LESAResNet,
    XVolutionResNet,
)
from mmacmix.layers import LESA, ACmix, PatchwiseACmix, SpatialReductionACmix, WindowACmix, XVolution
from mmacmix.ops import neighborhood_attention


def cases(number):
    """So many of them, the same in every run."""
    few = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=few)


class Wrong(NamedTuple):
    """A value that the docstring does not allow, under the argument's name."""

    name: str
    value: Any


NO_NUMBERS = st.sampled_from(['7', None, [1], float('nan'), 1j])
NO_INTEGERS = st.one_of(NO_NUMBERS, st.sampled_from([1.0, 2.5, True]))
NO_SIZES = st.one_of(NO_INTEGERS, st.integers(-3, 0))
NO_WINDOWS = st.one_of(NO_SIZES, st.sampled_from([2, 4, 8]))
NO_PROBABILITIES = st.one_of(NO_NUMBERS, st.sampled_from([-0.1, 1.0, 2, float('inf')]))
NO_RATES = st.sampled_from([(), (1.0,), (0.5, 0.5, 0.5), 'ab', 1.0, None, (0.5, None), (float('inf'), 1)])
NO_FORMS = st.sampled_from(['groups', '', None, 3, ['group']])
RATES = st.sampled_from([(0.5, 0.5), [1, 0], (0, 2.0), (-1.0, 0.0)])
SIDES = st.integers(1, 12)
FORMS = st.sampled_from(['group', 'depthwise', 'frozen'])
#: What every layer has. Rates are fixed or learned; the form is that of the convolution path.
PATHS = dict(rates=RATES, learn_rates=st.booleans(), shift_form=FORMS)
NO_PATHS = dict(rates=NO_RATES, shift_form=NO_FORMS)


def maybe_wrong(draw, arguments, no_arguments):
    """One of the arguments, in every other case, is not allowed."""
    if not draw(st.booleans()):
        return arguments, None
    name = draw(st.sampled_from(sorted(no_arguments)))
    value = draw(no_arguments[name])
    if name == 'shift_form':  # is of no consequence where there is no convolution path
        arguments = arguments | dict(learn_rates=True)
    return arguments | {name: value}, Wrong(name, value)


def parts(value):
    """The value, and what it is made of."""
    yield value
    if isinstance(value, (tuple, list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from parts(each)


def check(wrong, run, shapes):
    """``run()`` gives finite tensors of those shapes, or complains of what is wrong."""
    if wrong is None:
        outputs = run()
        assert [tuple(each.shape) for each in outputs] == shapes
        assert all(each.isfinite().all() for each in outputs)
        return
    with pytest.raises((ValueError, TypeError)) as caught:
        run()
    message = str(caught.value)
    assert wrong.name in message, message
    assert any(repr(each) in message for each in parts(wrong.value)), message


def of_images(kind, arguments, batch, height, width):
    """What builds a backbone and maps images with it."""

    def run():
        network = kind(**arguments)
        return network(torch.randn(batch, arguments['in_channels'], height, width))

    return run


def after(side, step):
    return -(-side // step)


@st.composite
def operator(draw):
    sizes = dict(kernel_size=draw(st.sampled_from([1, 3, 5, 7])), stride=draw(st.integers(1, 3)))
    sizes |= dict(dilation=draw(st.integers(1, 3)), backend=draw(st.sampled_from(['auto', 'blocked', 'reference'])))
    backends = st.sampled_from(['triton', 'fast', '', None, 3])  # Triton's runs on GPUs only
    sizes, wrong = maybe_wrong(
        draw, sizes, dict(kernel_size=NO_WINDOWS, stride=NO_SIZES, dilation=NO_SIZES, backend=backends)
    )
    map_shape = draw(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 4), SIDES, SIDES))
    return sizes, wrong, map_shape


@cases(500)
@given(operator(), st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
def test_operator(case, dtype):
    sizes, wrong, shape = case
    stride = 1 if wrong and wrong.name == 'stride' else sizes['stride']
    query_shape = (*shape[:3], after(shape[3], stride), after(shape[4], stride))
    query, key, value = (torch.randn(each, dtype=dtype) for each in (query_shape, shape, shape))
    check(wrong, lambda: [neighborhood_attention(query, key, value, **sizes)], [query_shape])


@cases(200)
@given(st.data())
def test_tensors_of_the_operator(data):
    draw = data.draw
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), SIDES, SIDES))
    tensors = {name: torch.randn(shape) for name in ('query', 'key', 'value')}
    name = draw(st.sampled_from(sorted(tensors)))
    kind = draw(st.sampled_from(['right', 'shape', 'dimensions', 'dtype', 'integers', 'none', 'type']))
    tensor = tensors[name]
    if kind == 'shape':
        dim = draw(st.integers(0, 4))
        tensor = torch.randn([side + (dim == at) for at, side in enumerate(shape)])
    elif kind == 'dimensions':
        tensor = tensor[0]
    elif kind == 'dtype':
        tensor = tensor.double()
    elif kind == 'integers':
        tensors = {each: value.int() for each, value in tensors.items()}
        tensor = tensors[name]
    elif kind == 'none':
        tensor = tensor[..., :0]
    elif kind == 'type':
        tensor = draw(st.sampled_from([None, 3, 'map', [1.0]]))
    tensors[name] = tensor
    if kind == 'right':
        check(None, lambda: [neighborhood_attention(**tensors)], [shape])
        return
    told = tensor.dtype if kind in ('dtype', 'integers') else type(tensor).__name__
    told = tuple(tensor.shape) if kind in ('shape', 'dimensions', 'none') else told
    with pytest.raises((ValueError, TypeError)) as caught:
        neighborhood_attention(**tensors)
    assert name in str(caught.value) and str(told) in str(caught.value)


@st.composite
def convolution(draw):
    """Arguments of a convolution that keeps the size of its input, and those that are not allowed."""
    kernel_size, dilation = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 2))
    same = kernel_size // 2 * dilation
    arguments = dict(
        in_channels=draw(st.integers(1, 6)),
        kernel_size=(kernel_size,) * 2 if draw(st.booleans()) else kernel_size,
        stride=draw(st.integers(1, 3)),
        padding=draw(st.sampled_from([None, same, [same, same]])),
        dilation=dilation,
        groups=1,
        bias=draw(st.booleans()),
    )
    no_pairs = st.sampled_from([(3, 5), (3, 3, 3), (2.0, 2.0), ()])
    no_arguments = dict(
        in_channels=NO_SIZES,
        kernel_size=st.one_of(NO_WINDOWS, no_pairs),
        stride=st.one_of(NO_SIZES, no_pairs),
        padding=st.one_of(st.sampled_from(['same', same + 1, -1]), st.just((same, same + 1))),
        dilation=st.one_of(NO_SIZES, no_pairs),
        groups=st.sampled_from([0, 2, None, '1']),
    )
    return arguments, no_arguments


@st.composite
def acmix(draw):
    heads, per_head = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    arguments, no_arguments = draw(convolution())
    arguments |= dict(
        out_channels=heads * per_head,
        num_heads=heads,
        attention_kernel_size=draw(st.sampled_from([1, 3, 7])),
        backend=draw(st.sampled_from(['auto', 'blocked', 'reference'])),
        **{name: draw(strategy) for name, strategy in PATHS.items()},
    )
    no_arguments |= dict(
        out_channels=st.one_of(NO_SIZES, st.just(heads * per_head + 1)) if heads > 1 else NO_SIZES,
        num_heads=st.one_of(NO_SIZES, st.just(heads * per_head + 1)),
        attention_kernel_size=st.one_of(NO_WINDOWS, st.sampled_from([(3, 5), (2.0, 2.0), ()])),
        backend=st.sampled_from(['fast', '', None, ['auto']]),
        **NO_PATHS,
    )
    return maybe_wrong(draw, arguments, no_arguments)


def check_convolution(kind, case, batch, height, width):
    """The layer gives what a convolution's output is like."""
    arguments, wrong = case

    def run():
        return [kind(**arguments)(torch.randn(batch, arguments['in_channels'], height, width))]

    stride = 1 if wrong else arguments['stride']
    check(wrong, run, [(batch, arguments['out_channels'], after(height, stride), after(width, stride))])


@cases(600)
@given(acmix(), st.integers(1, 2), SIDES, SIDES)
def test_acmix(case, batch, height, width):
    check_convolution(ACmix, case, batch, height, width)


@st.composite
def xvolution(draw):
    arguments, no_arguments = draw(convolution())
    groups = draw(st.integers(1, 3))
    steps = st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=1, max_size=9, unique=True)
    arguments |= dict(
        in_channels=groups * draw(st.integers(1, 2)),
        out_channels=groups * draw(st.integers(1, 3)),
        groups=groups,
        shift_distance=draw(st.integers(1, 13)),
        directions=draw(st.one_of(steps, steps.map(tuple))),
        relations=draw(st.booleans()),
    )
    no_arguments |= dict(
        out_channels=st.one_of(NO_SIZES, st.just(3 * groups + 1)) if groups > 1 else NO_SIZES,
        groups=st.one_of(NO_SIZES, st.just(7)),
        shift_distance=NO_SIZES,
        directions=st.sampled_from([(), None, 'up', [(0, 2)], [(0, 1), [0, 1]], [(0.0, 1)], [(0,)], [1], [(True, 0)]]),
    )
    return maybe_wrong(draw, arguments, no_arguments)


@cases(300)
@given(xvolution(), SIDES, SIDES)
def test_xvolution(case, height, width):  # two images: batch normalisation has no variance of one number
    check_convolution(XVolution, case, 2, height, width)


@st.composite
def lesa(draw):
    arguments, no_arguments = draw(convolution())
    heads = draw(st.integers(1, 3))
    arguments |= dict(
        in_channels=heads * draw(st.integers(1, 2)),
        out_channels=2 * heads * draw(st.integers(1, 3)),
        num_heads=heads,
        position_size=draw(st.integers(1, 9)),
    )
    no_arguments |= dict(
        out_channels=st.one_of(NO_SIZES, st.just(2 * heads + 1)),
        num_heads=st.one_of(NO_SIZES, st.just(7)),
        position_size=NO_SIZES,
    )
    return maybe_wrong(draw, arguments, no_arguments)


@cases(300)
@given(lesa(), SIDES, SIDES)
def test_lesa(case, height, width):
    check_convolution(LESA, case, 2, height, width)


@st.composite
def transformer_layer(draw):
    """Arguments that the layers of transformers share, and those that are not allowed."""
    heads, per_head = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    arguments = dict(
        channels=heads * per_head,
        num_heads=heads,
        qkv_bias=draw(st.booleans()),
        attn_drop_rate=draw(st.sampled_from([0, 0.5])),
        drop_rate=draw(st.sampled_from([0, 0.5])),
        **{name: draw(strategy) for name, strategy in PATHS.items()},
    )
    no_arguments = dict(
        channels=st.one_of(NO_SIZES, st.just(heads * per_head + 1)) if heads > 1 else NO_SIZES,
        num_heads=st.one_of(NO_SIZES, st.just(heads * per_head + 1)),
        attn_drop_rate=NO_PROBABILITIES,
        drop_rate=NO_PROBABILITIES,
        **NO_PATHS,
    )
    return arguments, no_arguments


@st.composite
def window_acmix(draw):
    arguments, no_arguments = draw(transformer_layer())
    window_size = draw(st.integers(1, 7))
    arguments |= dict(
        window_size=window_size,
        shift_size=draw(st.integers(0, window_size - 1)),
        qk_scale=draw(st.sampled_from([None, 0.5, 1])),
        conv_on_rolled=draw(st.booleans()),
    )
    no_arguments |= dict(
        window_size=NO_SIZES,
        shift_size=st.one_of(NO_INTEGERS, st.integers(-2, -1), st.just(window_size)),
        qk_scale=st.sampled_from(['1', float('nan'), [1], True]),
    )
    return maybe_wrong(draw, arguments, no_arguments)


@cases(250)
@given(window_acmix(), st.integers(1, 2), SIDES, SIDES)
def test_window_acmix(case, batch, height, width):
    arguments, wrong = case
    shape = (batch, height, width, arguments['channels'])
    check(wrong, lambda: [WindowACmix(**arguments)(torch.randn(shape))], [shape])


@st.composite
def spatial_reduction_acmix(draw):
    arguments, no_arguments = draw(transformer_layer())
    return maybe_wrong(draw, arguments | dict(sr_ratio=draw(st.integers(1, 8))), no_arguments | dict(sr_ratio=NO_SIZES))


@cases(250)
@given(spatial_reduction_acmix(), st.integers(1, 2), SIDES, SIDES)
def test_spatial_reduction_acmix(case, batch, height, width):
    arguments, wrong = case
    shape = (batch, height, width, arguments['channels'])
    check(wrong, lambda: [SpatialReductionACmix(**arguments)(torch.randn(shape))], [shape])


@st.composite
def patchwise_acmix(draw):
    heads, share = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    arguments = dict(
        in_channels=draw(st.integers(1, 6)),
        channels=draw(st.sampled_from([4, 8])),
        attention_kernel_size=draw(st.sampled_from([1, 3, 5])),
        num_heads=heads,
        share=share,
        **{name: draw(strategy) for name, strategy in PATHS.items()},
    )
    return maybe_wrong(
        draw,
        arguments,
        dict(
            in_channels=NO_SIZES,
            channels=NO_SIZES,
            attention_kernel_size=NO_WINDOWS,
            num_heads=st.one_of(NO_SIZES, st.just(3)),
            share=st.one_of(NO_SIZES, st.just(3)),
            **NO_PATHS,
        ),
    )


@cases(250)
@given(patchwise_acmix(), SIDES, SIDES)
def test_patchwise_acmix(case, height, width):
    arguments, wrong = case

    def run():  # two images: batch normalisation has no variance of one number
        layer = PatchwiseACmix(**arguments)
        return [layer(torch.randn(2, arguments['in_channels'], height, width))]

    check(wrong, run, [(2, arguments['channels'], height, width)])


SMALL_STEPS = st.integers(1, 2)


@st.composite
def stages(draw, number):
    """Arguments about stages that all backbones have, and those that are not allowed."""
    out_indices = st.lists(st.integers(0, number - 1), min_size=1, max_size=number, unique=True).map(sorted)
    arguments = dict(out_indices=draw(out_indices), frozen_stages=draw(st.integers(-1, number)))
    no_indices = st.sampled_from([[number], [-1], [], None, 0, ['0'], [0.0]])
    no_frozen = st.one_of(NO_INTEGERS, st.sampled_from([-2, number + 1]))
    return arguments, dict(out_indices=no_indices, frozen_stages=no_frozen)


@st.composite
def resnet(draw, kind):
    number, stage_with_layer = draw(st.integers(1, 4)), f'stage_with_{kind.layer.__name__.lower()}'
    shared, no_shared = draw(stages(number))
    arguments = shared | dict(
        depth=26,
        in_channels=draw(st.integers(1, 4)),
        stem_channels=draw(st.sampled_from([None, 2, 5])),
        base_channels=draw(st.sampled_from([16] if kind is LESAResNet else [4, 8])),
        num_stages=number,
        strides=draw(st.lists(SMALL_STEPS, min_size=number, max_size=4)),
        dilations=draw(st.lists(SMALL_STEPS, min_size=number, max_size=4).map(tuple)),
        **{stage_with_layer: draw(st.lists(st.booleans(), min_size=number, max_size=4))},
        deep_stem=draw(st.booleans()),
        norm_eval=draw(st.booleans()),
        with_cp=draw(st.booleans()),
        zero_init_residual=draw(st.booleans()),
    )
    no_entries = st.sampled_from([[1] * (number - 1), 1, None, 'abcd'])
    no_steps = st.one_of(no_entries, NO_SIZES.map(lambda value: [value] * 4))
    no_shared |= dict(
        depth=st.sampled_from([18, 0, '26', None, [26]]),
        in_channels=NO_SIZES,
        stem_channels=NO_SIZES.filter(lambda value: value is not None),
        base_channels=NO_SIZES,
        num_stages=st.one_of(NO_SIZES, st.just(5)).filter(lambda value: value not in (1, True)),
        strides=no_steps,
        dilations=no_steps,
        **{stage_with_layer: no_entries},
    )
    return maybe_wrong(draw, arguments, no_shared)


@pytest.mark.parametrize('kind', [ACmixResNet, XVolutionResNet, LESAResNet])
@cases(120)
@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_resnet(kind, data, height, width):
    arguments, wrong = data.draw(resnet(kind))
    shapes, sides = [], [after(after(side, 2), 2) for side in (height, width)]
    for stage in range(0 if wrong else arguments['num_stages']):
        sides = [after(side, arguments['strides'][stage]) for side in sides]
        if stage in arguments['out_indices']:
            shapes.append((2, arguments['base_channels'] * 4 * 2**stage, *sides))
    check(wrong, of_images(kind, arguments, 2, height, width), shapes)


@st.composite
def swin(draw):
    number = draw(st.integers(1, 3))
    shared, no_shared = draw(stages(number))
    arch = dict(
        embed_dims=draw(st.sampled_from([4, 8])),
        depths=draw(st.lists(SMALL_STEPS, min_size=number, max_size=number)),
        num_heads=draw(st.lists(st.sampled_from([1, 2, 4]), min_size=number, max_size=number)),
    )
    arguments = shared | dict(
        arch=arch,
        pretrain_img_size=draw(st.sampled_from([32, (32, 48)])),
        in_channels=draw(st.integers(1, 4)),
        patch_size=draw(st.integers(1, 4)),
        window_size=draw(st.integers(1, 7)),
        mlp_ratio=draw(st.sampled_from([0.5, 1, 4])),
        qkv_bias=draw(st.booleans()),
        qk_scale=draw(st.sampled_from([None, 0.25])),
        patch_norm=draw(st.booleans()),
        drop_rate=draw(st.sampled_from([0.0, 0.1])),
        attn_drop_rate=draw(st.sampled_from([0.0, 0.1])),
        drop_path_rate=draw(st.sampled_from([0.0, 0.5])),
        use_abs_pos_embed=draw(st.booleans()),
        conv_on_rolled=draw(st.booleans()),
        with_cp=draw(st.booleans()),
    )
    no_arch = st.sampled_from(
        [
            'huge',
            None,
            4,
            dict(depths=[1]),
            arch | dict(embed_dims=0),
            arch | dict(depths=[0] * number),
            arch | dict(num_heads=[1] * (number + 1)),
        ]
    )
    no_shared |= dict(
        arch=no_arch,
        pretrain_img_size=st.sampled_from([0, '224', None, (32,), (32, 0), 1.5]),
        in_channels=NO_SIZES,
        patch_size=NO_SIZES,
        window_size=NO_SIZES,
        mlp_ratio=st.one_of(NO_NUMBERS, st.sampled_from([0, -1])),
        qk_scale=st.sampled_from(['1', float('nan')]),
        drop_rate=NO_PROBABILITIES,
        attn_drop_rate=NO_PROBABILITIES,
        drop_path_rate=NO_PROBABILITIES,
    )
    return maybe_wrong(draw, arguments, no_shared)


@cases(150)
@given(swin(), st.integers(1, 40), st.integers(1, 40))
def test_swin(case, height, width):
    arguments, wrong = case
    shapes, sides = [], [height, width]
    for stage in range(0 if wrong else len(arguments['arch']['depths'])):
        sides = [after(side, arguments['patch_size'] if stage == 0 else 2) for side in sides]
        if stage in arguments['out_indices']:
            shapes.append((1, arguments['arch']['embed_dims'] * 2**stage, *sides))
    check(wrong, of_images(ACmixSwinTransformer, arguments, 1, height, width), shapes)


@st.composite
def pvt(draw):
    number = draw(st.integers(1, 4))
    shared, no_shared = draw(stages(number))

    def entries(*choices):
        return draw(st.lists(st.sampled_from(choices), min_size=number, max_size=number))

    arch = dict(
        depths=entries(1, 2),
        embed_dims=entries(4, 8),
        num_heads=entries(1, 2, 4),
        mlp_ratios=entries(1, 4),
        sr_ratios=entries(1, 2, 3, 8),
    )
    arguments = shared | dict(
        arch=arch,
        pretrain_img_size=draw(st.sampled_from([1, 32])),
        in_channels=draw(st.integers(1, 4)),
        patch_sizes=entries(1, 2, 4),
        final_norm=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        drop_rate=draw(st.sampled_from([0.0, 0.1])),
        attn_drop_rate=draw(st.sampled_from([0.0, 0.1])),
        drop_path_rate=draw(st.sampled_from([0.0, 0.5])),
        with_cp=draw(st.booleans()),
    )
    no_arch = st.sampled_from(
        [
            'huge',
            None,
            4,
            dict(embed_dims=[4]),
            arch | dict(depths=[0] * number),
            arch | dict(num_heads=[1] * (number + 1)),
            arch | dict(sr_ratios=['1'] * number),
            arch | dict(widths=[1]),
        ]
    )
    no_shared |= dict(
        arch=no_arch,
        pretrain_img_size=NO_SIZES,
        in_channels=NO_SIZES,
        patch_sizes=st.sampled_from([[2] * (number - 1), 2, None, [0] * number, ['2'] * number]),
        drop_rate=NO_PROBABILITIES,
        attn_drop_rate=NO_PROBABILITIES,
        drop_path_rate=NO_PROBABILITIES,
    )
    return maybe_wrong(draw, arguments, no_shared)


@cases(150)
@given(pvt(), st.integers(1, 40), st.integers(1, 40))
def test_pvt(case, height, width):
    arguments, wrong = case
    shapes, sides = [], [height, width]
    for stage in range(0 if wrong else len(arguments['arch']['depths'])):
        sides = [max(1, side // arguments['patch_sizes'][stage]) for side in sides]
        if stage in arguments['out_indices']:
            shapes.append((1, arguments['arch']['embed_dims'][stage], *sides))
    check(wrong, of_images(ACmixPyramidVisionTransformer, arguments, 1, height, width), shapes)


@st.composite
def san(draw):
    shared, no_shared = draw(stages(5))
    arguments = shared | dict(
        depth=10,
        in_channels=draw(st.integers(1, 4)),
        base_channels=draw(st.sampled_from([8, 16])),
        kernel_sizes=draw(st.lists(st.sampled_from([1, 3]), min_size=5, max_size=6)),
        acmix=dict(num_heads=2, share=2) | {name: draw(strategy) for name, strategy in PATHS.items()},
        norm_eval=draw(st.booleans()),
        with_cp=draw(st.booleans()),
    )
    no_shared |= dict(
        depth=st.sampled_from([18, 0, '10', None, [10]]),
        in_channels=NO_SIZES,
        base_channels=NO_SIZES,
        kernel_sizes=st.sampled_from([[3] * 4, 3, None, 'abcde', [2] * 5, ['3'] * 5, [0] * 5]),
    )
    return maybe_wrong(draw, arguments, no_shared)


@cases(80)
@given(san(), st.integers(1, 40), st.integers(1, 40))
def test_san(case, height, width):
    arguments, wrong = case
    shapes, sides = [], [height, width]
    for stage, factor in enumerate((1, 4, 8, 16, 32)):
        sides = [after(side, 2) for side in sides]
        if not wrong and stage in arguments['out_indices']:
            shapes.append((2, arguments['base_channels'] * factor, *sides))
    check(wrong, of_images(ACmixSAN, arguments, 2, height, width), shapes)


@cases(100)
@given(
    st.sampled_from([ACmixResNet, ACmixSwinTransformer, ACmixPyramidVisionTransformer, ACmixSAN, ACmix, XVolution]),
    st.sampled_from([None, 'image.jpg', [[1.0]], (3,), (3, 32, 32), (1, 4, 32, 32), (1, 3, 0, 32), (1, 3, 32, 32, 1)]),
)
def test_what_is_no_batch_of_images(kind, value):
    sizes = {
        ACmixResNet: dict(depth=26, base_channels=4),
        ACmixSwinTransformer: dict(arch=dict(embed_dims=4, depths=[1], num_heads=[1]), out_indices=[0]),
        ACmixPyramidVisionTransformer: dict(arch=dict(depths=[1], embed_dims=[4]), out_indices=[0]),
        ACmixSAN: dict(depth=10, base_channels=8, acmix=dict(num_heads=2, share=2)),
        ACmix: dict(in_channels=3, out_channels=4),
        XVolution: dict(in_channels=3, out_channels=4),
    }
    network = kind(**sizes[kind])
    x = torch.randn(value) if isinstance(value, tuple) else value
    with pytest.raises((ValueError, TypeError)) as caught:
        network(x)
    told = value if isinstance(value, tuple) else type(value).__name__
    assert str(told) in str(caught.value)
