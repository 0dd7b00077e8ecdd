"""Conversion of published ACmix checkpoints: strict loading, and messages that name keys."""

import pytest
import torch

from mmacmix.backbones import ACmixResNet
from mmacmix.checkpoints import convert
from mmacmix.layers import ACmix
from tests import golden


@pytest.fixture
def operator():
    return golden.load('op_s1').state_dict


@pytest.fixture
def classifier():
    return golden.load('resnet26').state_dict


def test_an_operator_loads_strictly(operator):
    ACmix(16, 16).load_state_dict(convert(operator, 'acmix'), strict=True)


def test_a_classifier_loads_strictly_and_only_its_head_is_dropped(classifier):
    converted = convert(classifier, 'acmix-resnet')
    ACmixResNet(26).load_state_dict(converted, strict=True)
    before = sum(t.numel() for name, t in classifier.items() if not name.startswith('fc.'))
    assert sum(t.numel() for t in converted.values()) == before


def test_batch_counters_are_kept(classifier):
    classifier['bn1.num_batches_tracked'] = torch.tensor(7)
    assert convert(classifier, 'acmix-resnet')['bn1.num_batches_tracked'] == 7


def test_the_prefix_of_distributed_training_is_removed(operator):
    wrapped = {f'module.{name}': tensor for name, tensor in operator.items()}
    assert convert(wrapped, 'acmix').keys() == convert(operator, 'acmix').keys()


@pytest.mark.parametrize('missing', ['bn1.weight', 'layer3.1.conv2.fc.weight', 'layer2.0.downsample.1.running_var'])
def test_missing_keys_are_named(classifier, missing):
    del classifier[missing]
    with pytest.raises(ValueError, match=f"not a checkpoint of 'acmix-resnet': missing keys: {missing}$"):
        convert(classifier, 'acmix-resnet')


def test_a_missing_block_is_named(classifier):
    kept = {name: tensor for name, tensor in classifier.items() if not name.startswith('layer3.2.')}
    with pytest.raises(ValueError, match=r'missing keys: layer3\.2\..* and \d+ more'):
        convert(kept, 'acmix-resnet')


def test_a_missing_stage_is_named(classifier):
    kept = {name: tensor for name, tensor in classifier.items() if not name.startswith('layer4.')}
    with pytest.raises(ValueError, match=r'missing keys: layer4\.0\..* and \d+ more'):
        convert(kept, 'acmix-resnet')


def test_unknown_keys_are_named(operator):
    with pytest.raises(ValueError, match='unknown keys: dep_conv.bias$'):
        convert({**operator, 'dep_conv.bias': torch.zeros(16)}, 'acmix')


def test_a_wrong_source_is_named(operator):
    with pytest.raises(ValueError, match='unknown keys: .*; missing keys: '):
        convert(operator, 'acmix-resnet')
    with pytest.raises(ValueError, match="source must be one of .* got 'nat'"):
        convert(operator, 'nat')


def test_the_input_is_not_modified(operator):
    shapes = {name: tensor.shape for name, tensor in operator.items()}
    convert(operator, 'acmix')
    assert {name: tensor.shape for name, tensor in operator.items()} == shapes
