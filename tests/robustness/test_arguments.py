"""Arguments of the operator, layers and backbones: documented ones give the documented shape, others one clear error.

Every case draws valid arguments. Then each argument in turn is replaced by an invalid value, and the error must state
its name and the value.
"""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
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
from mmacmix.ops import ceil_div, neighborhood_attention

any_of, BOOLS = st.sampled_from, st.booleans()
SIDES, IMAGE_SIDES = st.integers(1, 12), st.integers(1, 40)
ONE_TO_THREE, ONE_OR_TWO = st.integers(1, 3), st.integers(1, 2)
DROP_RATES, BACKENDS = any_of([0, 0.1, 0.5]), any_of(['auto', 'tiles', 'reference'])
# The two paths, in every ACmix layer.
PATHS = dict(
    rates=any_of([(0.5, 0.5), [1, 0], (0, 2.0), (-1.0, 0.0)]),
    learn_rates=BOOLS,
    shift_form=any_of(['group', 'depthwise', 'frozen']),
)

NOT_NUMBERS = any_of(['7', None, [1], float('nan'), 1j])
NOT_INTEGERS = NOT_NUMBERS | any_of([1.0, 2.5, True])
NOT_SIZES = NOT_INTEGERS | st.integers(-3, 0)
NOT_OUT_CHANNELS = NOT_SIZES.filter(lambda value: value is not None)  # None stands for in_channels
NOT_WINDOWS = NOT_SIZES | any_of([2, 4, 8])
NOT_PAIRS = any_of([(3, 5), (3, 3, 3), (2.0, 2.0), ()])
NOT_PROBABILITIES = NOT_NUMBERS | any_of([-0.1, 1.0, 2, float('inf')])
NOT_PATHS = dict(
    rates=any_of([(), (1.0,), (0.5, 0.5, 0.5), 'ab', 1.0, None, (0.5, None), (float('inf'), 1)]),
    shift_form=any_of(['groups', '', None, 3, ['group']]),
)


def cases(number):
    """Run the same examples each time; a failure is reported at once, as shrinking it would take minutes."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=number,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=slow,
    )


def parts(value):
    """A value and everything inside it."""
    yield value
    if isinstance(value, (tuple, list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from parts(each)


def check(draw, valid, invalid, run):
    """``run(**arguments)`` returns finite tensors and their shapes, or an error names an invalid argument.

    Args:
        draw: Draws from a strategy.
        valid: Argument to a strategy or a constant.
        invalid: Argument to a strategy for invalid values.
        run: Returns tensors and the expected shapes.
    """
    arguments = {name: draw(each) if isinstance(each, st.SearchStrategy) else each for name, each in valid.items()}
    outputs, shapes = run(**arguments)
    assert [tuple(each.shape) for each in outputs] == shapes
    assert all(each.isfinite().all() for each in outputs)
    for name, values in invalid.items():
        value = draw(values)
        path = dict(learn_rates=True) if name == 'shift_form' else {}  # is not read without a convolution path
        with pytest.raises((ValueError, TypeError)) as caught:
            run(**arguments | path | {name: value})
        message = str(caught.value)
        assert name in message and any(repr(each) in message for each in parts(value)), (name, value, message)


@cases(200)
@given(
    st.data(),
    st.tuples(st.integers(0, 2), ONE_TO_THREE, st.integers(1, 4), SIDES, SIDES),
    any_of([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_operator(data, shape, dtype):
    invalid = dict(
        kernel_size=NOT_WINDOWS,
        stride=NOT_SIZES,
        dilation=NOT_SIZES,
        backend=any_of(['triton', 'fast', '', None, 3]),  # Triton's runs on GPUs only
    )
    stride = data.draw(ONE_TO_THREE)
    query_shape = (*shape[:3], *(ceil_div(side, stride) for side in shape[3:]))
    maps = [torch.randn(each, dtype=dtype) for each in (query_shape, shape, shape)]
    valid = dict(kernel_size=any_of([1, 3, 5, 7]), stride=stride, dilation=ONE_TO_THREE, backend=BACKENDS)
    check(data.draw, valid, invalid, lambda **sizes: ([neighborhood_attention(*maps, **sizes)], [query_shape]))


WRONG_TENSORS = {
    'larger': lambda tensor, dim: torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim),
    'four-dimensional': lambda tensor, dim: tensor[0],
    'empty': lambda tensor, dim: tensor[..., :0],
    'other dtype': lambda tensor, dim: tensor.double(),
    'None': lambda tensor, dim: None,
    'number': lambda tensor, dim: 3,
    'string': lambda tensor, dim: 'map',
    'list': lambda tensor, dim: [1.0],
}


@pytest.mark.parametrize('kind', WRONG_TENSORS)
@pytest.mark.parametrize('name', ['query', 'key', 'value'])
@cases(8)
@given(st.tuples(ONE_OR_TWO, ONE_TO_THREE, st.integers(1, 4), SIDES, SIDES), st.integers(0, 4))
def test_wrong_tensor_of_the_operator(name, kind, shape, dim):
    tensors = {name: torch.randn(shape) for name in ('query', 'key', 'value')}
    assert neighborhood_attention(**tensors).shape == shape
    wrong = tensors[name] = WRONG_TENSORS[kind](tensors[name], dim)
    with pytest.raises((ValueError, TypeError)) as caught:
        neighborhood_attention(**tensors)
    stated = type(wrong).__name__
    if torch.is_tensor(wrong):
        stated = str(wrong.dtype) if kind == 'other dtype' else str(tuple(wrong.shape))
    assert name in str(caught.value) and stated in str(caught.value)


def test_the_operator_refuses_integers():
    with pytest.raises(TypeError, match=r'query, key and value .* floating-point .* torch\.int32'):
        neighborhood_attention(*torch.ones(3, 1, 1, 2, 4, 4, dtype=torch.int32))


def convolution(draw):
    """Arguments of a convolution that keeps the size of its input: valid and invalid."""
    kernel_size, dilation = draw(any_of([1, 3, 5])), draw(ONE_OR_TWO)
    same = kernel_size // 2 * dilation
    valid = dict(
        in_channels=st.integers(1, 6),
        kernel_size=any_of([kernel_size, (kernel_size, kernel_size)]),
        stride=ONE_TO_THREE,
        padding=any_of([None, same, [same, same]]),
        dilation=dilation,
        groups=1,
        bias=BOOLS,
    )
    invalid = dict(
        in_channels=NOT_SIZES,
        kernel_size=NOT_WINDOWS | NOT_PAIRS,
        stride=NOT_SIZES | NOT_PAIRS,
        padding=any_of(['same', same + 1, -1, (same, same + 1)]),
        dilation=NOT_SIZES | NOT_PAIRS,
        groups=any_of([0, 2, None, '1']),
    )
    return valid, invalid


def split_channels(draw, name, number, groups=ONE_TO_THREE):
    """A number of channels and the number of heads or groups that they are split into: valid and invalid."""
    split = draw(groups)
    total = split * draw(ONE_TO_THREE)
    not_sizes = NOT_OUT_CHANNELS if name == 'out_channels' else NOT_SIZES
    not_totals = not_sizes | st.just(total + 1) if split > 1 else not_sizes
    return {name: total, number: split}, {name: not_totals, number: NOT_SIZES | st.just(total + 1)}


def acmix(draw):
    valid, invalid = convolution(draw)
    heads, not_heads = split_channels(draw, 'out_channels', 'num_heads', st.integers(1, 4))
    valid |= dict(attention_kernel_size=any_of([1, 3, 7]), backend=BACKENDS, **heads, **PATHS)
    return valid, invalid | dict(
        attention_kernel_size=NOT_WINDOWS | NOT_PAIRS,
        backend=any_of(['fast', '', None, ['auto']]),
        **not_heads,
        **NOT_PATHS,
    )


def xvolution(draw):
    valid, invalid = convolution(draw)
    groups = draw(ONE_TO_THREE)
    directions = st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), min_size=1, max_size=9, unique=True)
    valid |= dict(
        in_channels=groups * draw(ONE_OR_TWO),
        out_channels=groups * draw(ONE_TO_THREE),
        groups=groups,
        shift_distance=st.integers(1, 13),
        directions=directions | directions.map(tuple),
        relations=BOOLS,
    )
    return valid, invalid | dict(
        out_channels=NOT_OUT_CHANNELS | st.just(3 * groups + 1) if groups > 1 else NOT_OUT_CHANNELS,
        groups=NOT_SIZES | st.just(7),
        shift_distance=NOT_SIZES,
        directions=any_of([(), None, 'up', [(0, 2)], [(0, 1), [0, 1]], [(0.0, 1)], [(0,)], [1], [(True, 0)]]),
    )


def lesa(draw):
    valid, invalid = convolution(draw)
    heads = draw(ONE_TO_THREE)
    valid |= dict(
        in_channels=heads * draw(ONE_OR_TWO),
        out_channels=2 * heads * draw(ONE_TO_THREE),
        num_heads=heads,
        position_size=st.integers(1, 9),
    )
    return valid, invalid | dict(
        out_channels=NOT_OUT_CHANNELS | st.just(2 * heads + 1),
        num_heads=NOT_SIZES | st.just(7),
        position_size=NOT_SIZES,
    )


def transformer_layer(draw):
    """Arguments that the layers of transformers share: valid and invalid."""
    heads, not_heads = split_channels(draw, 'channels', 'num_heads')
    valid = dict(qkv_bias=BOOLS, attn_drop_rate=DROP_RATES, drop_rate=DROP_RATES, **heads, **PATHS)
    return valid, dict(attn_drop_rate=NOT_PROBABILITIES, drop_rate=NOT_PROBABILITIES, **not_heads, **NOT_PATHS)


def window_acmix(draw):
    valid, invalid = transformer_layer(draw)
    window_size = draw(st.integers(1, 7))
    valid |= dict(
        window_size=window_size,
        shift_size=st.integers(0, window_size - 1),
        qk_scale=any_of([None, 0.5, 1]),
        conv_on_rolled=BOOLS,
    )
    return valid, invalid | dict(
        window_size=NOT_SIZES,
        shift_size=NOT_INTEGERS | any_of([-2, -1, window_size]),
        qk_scale=any_of(['1', float('nan'), [1], True]),
    )


def spatial_reduction_acmix(draw):
    valid, invalid = transformer_layer(draw)
    return valid | dict(sr_ratio=st.integers(1, 8)), invalid | dict(sr_ratio=NOT_SIZES)


def patchwise_acmix(draw):
    valid = dict(
        in_channels=st.integers(1, 6),
        channels=any_of([4, 8]),
        attention_kernel_size=any_of([1, 3, 5]),
        num_heads=any_of([1, 2, 4]),
        share=any_of([1, 2, 4]),
        **PATHS,
    )
    return valid, dict(
        in_channels=NOT_SIZES,
        channels=NOT_SIZES,
        attention_kernel_size=NOT_WINDOWS,
        num_heads=NOT_SIZES | st.just(3),
        share=NOT_SIZES | st.just(3),
        **NOT_PATHS,
    )


LAYERS = {
    ACmix: acmix,
    XVolution: xvolution,
    LESA: lesa,
    WindowACmix: window_acmix,
    SpatialReductionACmix: spatial_reduction_acmix,
    PatchwiseACmix: patchwise_acmix,
}


@pytest.mark.parametrize('kind', LAYERS)
@cases(200)
@given(st.data(), SIDES, SIDES)
def test_layer(kind, data, height, width):
    def run(**arguments):
        layer = kind(**arguments)
        if 'in_channels' not in arguments:
            shape = (2, height, width, arguments['channels'])
            return [layer(torch.randn(shape))], [shape]
        sides = [ceil_div(side, arguments.get('stride', 1)) for side in (height, width)]
        out_channels = arguments['channels' if kind is PatchwiseACmix else 'out_channels']
        return [layer(torch.randn(2, arguments['in_channels'], height, width))], [(2, out_channels, *sides)]

    check(data.draw, *LAYERS[kind](data.draw), run)


def backbone(number, **arguments):
    """Arguments that all backbones have, and more of them."""
    out_indices = st.lists(st.integers(0, number - 1), min_size=1, max_size=number, unique=True).map(sorted)
    shared = dict(out_indices=out_indices, frozen_stages=st.integers(-1, number), in_channels=st.integers(1, 4))
    return dict(shared, with_cp=BOOLS, **arguments)


def not_backbone(number, **arguments):
    out_indices = any_of([[number], [-1], [], None, 0, ['0'], [0.0]])
    frozen_stages = NOT_INTEGERS | any_of([-2, number + 1])
    return dict(out_indices=out_indices, frozen_stages=frozen_stages, in_channels=NOT_SIZES, **arguments)


def resnet(draw, kind):
    number, stage_with_layer = draw(st.integers(1, 4)), f'stage_with_{kind.layer.__name__.lower()}'
    steps = st.lists(ONE_OR_TWO, min_size=number, max_size=4)
    not_entries = any_of([[1] * (number - 1), 1, None, 'abcd'])
    not_steps = not_entries | NOT_SIZES.map(lambda value: [value] * 4)
    valid = backbone(
        number,
        depth=26,
        stem_channels=any_of([None, 2, 5]),
        base_channels=16 if kind is LESAResNet else any_of([4, 8]),
        num_stages=number,
        strides=steps,
        dilations=steps.map(tuple),
        deep_stem=BOOLS,
        norm_eval=BOOLS,
        zero_init_residual=BOOLS,
        **{stage_with_layer: st.lists(BOOLS, min_size=number, max_size=4)},
    )
    return valid, not_backbone(
        number,
        depth=any_of([18, 0, '26', None, [26]]),
        stem_channels=NOT_SIZES.filter(lambda value: value is not None),
        base_channels=NOT_SIZES,
        num_stages=(NOT_SIZES | st.just(5)).filter(lambda value: value not in (1, True)),
        strides=not_steps,
        dilations=not_steps,
        **{stage_with_layer: not_entries},
    )


# What the two transformers share.
TRANSFORMER = dict(qkv_bias=BOOLS, **dict.fromkeys(('drop_rate', 'attn_drop_rate', 'drop_path_rate'), DROP_RATES))
NOT_TRANSFORMER = dict.fromkeys(('drop_rate', 'attn_drop_rate', 'drop_path_rate'), NOT_PROBABILITIES)


def entries(draw, number, *choices):
    return draw(st.lists(any_of(choices), min_size=number, max_size=number))


def swin(draw, kind):
    number = draw(ONE_TO_THREE)
    arch = dict(
        embed_dims=draw(any_of([4, 8])), depths=entries(draw, number, 1, 2), num_heads=entries(draw, number, 1, 2, 4)
    )
    wrong = dict(embed_dims=0), dict(depths=[0] * number), dict(num_heads=[1] * (number + 1))
    valid = backbone(
        number,
        arch=st.just(arch),
        pretrain_img_size=any_of([32, (32, 48)]),
        patch_size=st.integers(1, 4),
        window_size=st.integers(1, 7),
        mlp_ratio=any_of([0.5, 1, 4]),
        qk_scale=any_of([None, 0.25]),
        patch_norm=BOOLS,
        use_abs_pos_embed=BOOLS,
        conv_on_rolled=BOOLS,
        **TRANSFORMER,
    )
    return valid, not_backbone(
        number,
        arch=any_of(['huge', None, 4, dict(depths=[1]), *(arch | each for each in wrong)]),
        pretrain_img_size=any_of([0, '224', None, (32,), (32, 0), 1.5]),
        patch_size=NOT_SIZES,
        window_size=NOT_SIZES,
        mlp_ratio=NOT_NUMBERS | any_of([0, -1]),
        qk_scale=any_of(['1', float('nan')]),
        **NOT_TRANSFORMER,
    )


def pvt(draw, kind):
    number = draw(st.integers(1, 4))
    arch = dict(
        depths=entries(draw, number, 1, 2),
        embed_dims=entries(draw, number, 4, 8),
        num_heads=entries(draw, number, 1, 2, 4),
        mlp_ratios=entries(draw, number, 1, 4),
        sr_ratios=entries(draw, number, 1, 2, 3, 8),
    )
    wrong = dict(depths=[0] * number), dict(num_heads=[1] * (number + 1)), dict(sr_ratios=['1'] * number), dict(width=1)
    valid = backbone(
        number,
        arch=st.just(arch),
        pretrain_img_size=any_of([1, 32]),
        patch_sizes=entries(draw, number, 1, 2, 4),
        final_norm=BOOLS,
        **TRANSFORMER,
    )
    return valid, not_backbone(
        number,
        arch=any_of(['huge', None, 4, dict(embed_dims=[4]), *(arch | each for each in wrong)]),
        pretrain_img_size=NOT_SIZES,
        patch_sizes=any_of([[2] * (number - 1), 2, None, [0] * number, ['2'] * number]),
        **NOT_TRANSFORMER,
    )


def san(draw, kind):
    valid = backbone(
        5,
        depth=10,
        base_channels=any_of([8, 16]),
        kernel_sizes=st.lists(any_of([1, 3]), min_size=5, max_size=6),
        acmix=st.fixed_dictionaries(dict(num_heads=st.just(2), share=st.just(2), **PATHS)),
        norm_eval=BOOLS,
    )
    return valid, not_backbone(
        5,
        depth=any_of([18, 0, '10', None, [10]]),
        base_channels=NOT_SIZES,
        kernel_sizes=any_of([[3] * 4, 3, None, 'abcde', [2] * 5, ['3'] * 5, [0] * 5]),
    )


def resnet_stages(sides, num_stages, strides, base_channels, **_):
    sides = [ceil_div(ceil_div(side, 2), 2) for side in sides]
    for stage, stride in enumerate(strides[:num_stages]):
        sides = [ceil_div(side, stride) for side in sides]
        yield base_channels * 4 * 2**stage, *sides


def swin_stages(sides, arch, patch_size, **_):
    for stage in range(len(arch['depths'])):
        sides = [ceil_div(side, 2 if stage else patch_size) for side in sides]
        yield arch['embed_dims'] * 2**stage, *sides


def pvt_stages(sides, arch, patch_sizes, **_):
    for channels, patch_size in zip(arch['embed_dims'], patch_sizes, strict=True):
        sides = [max(1, side // patch_size) for side in sides]
        yield channels, *sides


def san_stages(sides, base_channels, **_):
    for factor in (1, 4, 8, 16, 32):
        sides = [ceil_div(side, 2) for side in sides]
        yield base_channels * factor, *sides


BACKBONES = {
    ACmixResNet: (resnet, resnet_stages),
    XVolutionResNet: (resnet, resnet_stages),
    LESAResNet: (resnet, resnet_stages),
    ACmixSwinTransformer: (swin, swin_stages),
    ACmixPyramidVisionTransformer: (pvt, pvt_stages),
    ACmixSAN: (san, san_stages),
}


@pytest.mark.parametrize('kind', BACKBONES)
@cases(80)
@given(st.data(), IMAGE_SIDES, IMAGE_SIDES)
def test_backbone(kind, data, height, width):
    arguments, stages = BACKBONES[kind]

    def run(**arguments):
        maps = kind(**arguments)(torch.randn(2, arguments['in_channels'], height, width))
        shapes = [(2, *shape) for shape in stages((height, width), **arguments)]
        return maps, [shapes[stage] for stage in arguments['out_indices']]

    check(data.draw, *arguments(data.draw, kind), run)


@pytest.mark.parametrize('kind, arguments', [
    (ACmixResNet, dict(depth=26, base_channels=4)),
    (ACmixSwinTransformer, dict(arch=dict(embed_dims=4, depths=[1], num_heads=[1]), out_indices=[0])),
    (ACmixPyramidVisionTransformer, dict(arch=dict(depths=[1], embed_dims=[4]), out_indices=[0])),
    (ACmixSAN, dict(depth=10, base_channels=8, acmix=dict(num_heads=2, share=2))),
    (ACmix, dict(in_channels=3, out_channels=4)),
    (XVolution, dict(in_channels=3, out_channels=4)),
])  # fmt: skip
@pytest.mark.parametrize(
    'value', [None, 'image.jpg', [[1.0]], (3,), (3, 32, 32), (1, 4, 32, 32), (1, 3, 0, 32), (1, 3, 32, 32, 1)]
)
def test_anything_but_a_batch_of_images_is_refused(kind, arguments, value):
    x, stated = (torch.randn(value), value) if isinstance(value, tuple) else (value, type(value).__name__)
    with pytest.raises((ValueError, TypeError)) as caught:
        kind(**arguments)(x)
    assert str(stated) in str(caught.value)
