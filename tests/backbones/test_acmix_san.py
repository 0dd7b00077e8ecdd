import math

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmacmix.backbones import ACmixSAN


def small(**arguments):
    return ACmixSAN(**{'depth': 10, 'base_channels': 32, 'kernel_sizes': (3, 3, 3, 3, 3), **arguments})


# The classifier's head included. The reconstruction has the smallest second path that reads all of the value.
@pytest.mark.parametrize('depth, plain, published', [(10, 11.841, 12.1), (15, 16.181, 16.6), (19, 20.518, 21.2)])
def test_number_of_parameters(depth, plain, published):
    head = 2048 * 1000 + 1000
    count = lambda network: (sum(p.numel() for p in network.parameters()) + head) / 1e6  # noqa: E731
    attention_alone = ACmixSAN(depth, acmix=dict(rates=(1, 0), learn_rates=False))
    assert round(count(attention_alone), 3) == plain
    assert count(ACmixSAN(depth)) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('batch, height, width', [(1, 1, 1), (3, 5, 7), (2, 64, 4), (1, 33, 130)])
def test_any_size(batch, height, width, dtype):
    network = small().to(dtype).eval()
    for stage, m in enumerate(network(torch.rand(batch, 3, height, width, dtype=dtype)), 1):
        sides = [math.ceil(side / 2 ** (stage + 1)) for side in (height, width)]
        assert m.shape == (batch, 32 * 2 ** (stage + 1), *sides)
        assert m.isfinite().all() and m.dtype == dtype


@pytest.mark.parametrize('frozen', [-1, 0, 2, 5])
def test_frozen_stages_do_not_train(frozen):
    network = small(frozen_stages=frozen, norm_eval=False).train()

    def trains(module):
        return any(p.requires_grad for p in module.parameters())

    assert trains(network.stem) == network.stem.training == (frozen < 0)
    for stage in range(5):
        assert trains(network.stages[stage]) == network.stages[stage].training == (frozen <= stage)


@pytest.mark.parametrize('norm_eval', [True, False])
def test_norm_eval_fixes_statistics(norm_eval):
    network = small(norm_eval=norm_eval).train()
    assert {m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {not norm_eval}


def test_with_cp_changes_nothing_but_memory():
    plain, checkpointed = small(), small(with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 48, 40)
    results = []
    for network in (plain.train(), checkpointed.train()):
        loss = sum(m.square().mean() for m in network(images))
        results.append([loss, *torch.autograd.grad(loss, list(network.parameters()))])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_shifts_survive_initialisation():
    network = small()
    network.init_weights()
    assert network.stages[2][2].attn.shift_conv.weight[0, 5].nonzero().tolist() == [[1, 2]]


def test_is_registered_under_its_name():
    assert MODELS.get('ACmixSAN') is ACmixSAN


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(depth=12), r'depth must be one of \(10, 15, 19\), got 12'),
        (dict(kernel_sizes=(3, 7)), r'kernel_sizes must have an entry for each of 5 stages, got \(3, 7\)'),
        (dict(out_indices=(5,)), r'out_indices must name stages 0 to 4, got \(5,\)'),
        (dict(base_channels=16), 'channels must be a multiple of share, got 4 and 8'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
