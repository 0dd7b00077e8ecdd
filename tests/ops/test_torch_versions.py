"""What newer versions of torch are needed for is refused in one sentence; all versions behave alike otherwise."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.torch_version import TorchVersion

from mmacmix.errors import LibraryError
from mmacmix.ops import (
    available_backends,
    check_torch,
    neighborhood_attention,
    register_load_state_dict_pre_hook,
    unfused_attention,
)
from mmacmix.ops.backends import choice
from tests.conftest import needs_torch
from tests.ops.maps import random_maps


def pretend(monkeypatch, version):
    monkeypatch.setattr(torch, '__version__', TorchVersion(version))


@pytest.mark.parametrize('found', ['2.1.2+cu121', '2.3.1', '2.4.0a0'])
def test_an_older_torch_is_refused(found, monkeypatch):
    pretend(monkeypatch, found)
    with pytest.raises(LibraryError) as caught:
        check_torch('2.4', 'this')
    assert str(caught.value) == f'this needs torch 2.4 or newer, found {found}.'


@pytest.mark.parametrize('found', ['2.4.0+cpu', '2.4.1', '2.13.0', '3.0'])
def test_the_same_or_a_newer_torch_passes(found, monkeypatch):
    pretend(monkeypatch, found)
    check_torch('2.4', 'this')


def test_the_triton_backend_needs_torch_2_4(monkeypatch):
    has_triton = torch.__version__ >= '2.4' and find_spec('triton') is not None
    assert ('triton' in available_backends('cuda')) == has_triton
    pretend(monkeypatch, '2.3.1')
    monkeypatch.setattr(choice, 'HAS_TRITON', False)
    with pytest.raises(LibraryError, match="the backend 'triton' needs torch 2.4 or newer, found 2.3.1"):
        neighborhood_attention(*random_maps((1, 1, 4, 3, 3))[:3], 3, backend='triton')


def test_hooks_see_their_module_before_its_state_is_loaded():
    parent, calls = nn.Sequential(nn.Linear(2, 2)), []

    def hook(module, state_dict, prefix, *_):
        calls.append((module, prefix))
        state_dict[f'{prefix}bias'] = torch.ones(2)

    register_load_state_dict_pre_hook(parent[0], hook)
    parent.load_state_dict({'0.weight': torch.zeros(2, 2)})
    assert calls == [(parent[0], '0.')] and parent[0].bias.eq(1).all()


@needs_torch('2.1', 'counting multiply-adds')
def test_unfused_attention_is_counted():
    from torch.utils.flop_counter import FlopCounterMode

    with unfused_attention(), FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(*torch.rand(3, 1, 2, 5, 4))
    assert counter.get_total_flops() == 2 * 2 * (2 * 5 * 5 * 4)
