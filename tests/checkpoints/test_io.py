"""Checkpoints are read as data, whatever wraps them; what does not fit a model is told."""

import os
import sys
import types

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import nn

from mmacmix.checkpoints import load_checkpoint, state_dict_of
from mmacmix.checkpoints.io import check_fit
from mmacmix.layers import WindowACmix
from tests.tooling import python


def process_state():
    """What reading a checkpoint could switch over for the whole process."""
    return (
        dict(os.environ),
        torch.load,
        torch.hub.load_state_dict_from_url,
        set(torch.serialization.get_safe_globals()),
        dict(CheckpointLoader._schemes),
    )


def test_a_network_is_built_and_given_weights_and_nothing_changes_for_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    cfg = dict(type='ACmixResNet', depth=26, base_channels=8)
    before = process_state()
    torch.save(dict(state_dict=MODELS.build(cfg).state_dict()), tmp_path / 'weights.pth')
    network = MODELS.build(cfg | dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))))
    network.init_weights()
    loaded = state_dict_of(load_checkpoint(tmp_path / 'weights.pth'))
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())
    assert process_state() == before


def test_importing_changes_nothing_for_the_process():
    done = python("""
        import os, torch
        from mmengine.runner import CheckpointLoader
        def state():
            safe = set(torch.serialization.get_safe_globals())
            return dict(os.environ), torch.load, safe, dict(CheckpointLoader._schemes)
        before = state()
        import mmacmix, mmacmix.inference
        assert state() == before
    """)
    assert done.returncode == 0, done.stderr


class ReachOut:
    """Asks for an attribute through which the file could reach anything."""

    def __reduce__(self):
        from mmengine.logging import HistoryBuffer

        return getattr, (HistoryBuffer, '__init__')


def test_only_a_log_buffers_own_statistics_can_be_looked_up(tmp_path):
    torch.save(ReachOut(), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='could run code'):
        load_checkpoint(tmp_path / 'bad.pth')


def test_a_training_state_of_mmengine_is_read(tmp_path):
    from mmengine.logging import HistoryBuffer

    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    buffer.update(3.0)
    torch.save(dict(state_dict=dict(a=torch.ones(2)), message_hub=dict(loss=buffer)), tmp_path / 'state.pth')
    loaded = load_checkpoint(tmp_path / 'state.pth')
    assert loaded['message_hub']['loss'].mean() == 2
    assert state_dict_of(loaded)['a'].tolist() == [1, 1]


def test_a_checkpoint_of_swins_original_repository_is_read_with_its_settings(tmp_path, monkeypatch):
    module = types.ModuleType('yacs.config')

    class CfgNode(dict):
        """As in yacs: a dictionary with an attribute of its own."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.__dict__['__immutable__'] = True

    CfgNode.__module__, CfgNode.__qualname__, module.CfgNode = 'yacs.config', 'CfgNode', CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = CfgNode(dict(MODEL=CfgNode(dict(NAME='swin'))))
    torch.save(dict(model=dict(a=torch.ones(1)), config=config, epoch=3), tmp_path / 'swin.pth')
    loaded = load_checkpoint(tmp_path / 'swin.pth')
    assert type(loaded['config']) is not CfgNode and loaded['config']['MODEL']['NAME'] == 'swin'
    assert state_dict_of(loaded)['a'] == 1


def test_missing_and_broken_files_are_named(tmp_path):
    (tmp_path / 'broken.pth').write_bytes(b'not a checkpoint')
    torch.save(dict(a=torch.ones(100)), tmp_path / 'half.pth')
    whole = (tmp_path / 'half.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(whole[: len(whole) // 2])
    for name, reason in (('absent.pth', 'there is no checkpoint'), ('broken.pth', 'it was not written by torch.save')):
        with pytest.raises(ValueError, match=reason) as caught:
            load_checkpoint(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ValueError, match=r'half\.pth cannot be read'):
        load_checkpoint(tmp_path / 'half.pth')


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(state_dict=s, meta={}), lambda s: dict(model=s)])
def test_state_dict_is_found_however_it_is_wrapped(wrap):
    assert state_dict_of(wrap(dict(a=torch.ones(1)))).keys() == {'a'}


@pytest.mark.parametrize('thing', [{}, [1], dict(epoch=3), dict(state_dict={})])
def test_something_else_is_no_checkpoint(thing):
    with pytest.raises(ValueError, match=r'x\.pth holds no state dict'):
        state_dict_of(thing, 'x.pth')


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))


def test_the_state_dict_of_a_wrapped_model_fits_the_bare_one(model):
    assert check_fit(state_dict_of(nn.DataParallel(model).state_dict()), model, 'x.pth') is None


def test_another_head_is_refused_unless_a_part_is_enough(model):
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    with pytest.raises(ValueError, match='is a checkpoint of another model: shapes differ for 1.weight, 1.bias'):
        check_fit(model.state_dict(), other, 'x.pth')
    note = check_fit(model.state_dict(), other, 'x.pth', partial=True)
    assert note == 'x.pth fits the model in part: shapes differ for 1.weight, 1.bias'


def test_a_state_dict_of_which_nothing_fits_is_refused(model):
    with pytest.raises(ValueError, match='it lacks weight, bias; the model lacks 0.weight, 0.bias, 1.weight and more'):
        check_fit(model.state_dict(), nn.Linear(4, 8), 'x.pth', partial=True)


def test_a_state_dict_that_the_model_adapts_fits():
    state_dict = nn.Sequential(WindowACmix(8, 2, window_size=7)).state_dict()
    check_fit(state_dict, nn.Sequential(WindowACmix(8, 2, window_size=4)), 'x.pth')
    check_fit(state_dict, nn.Sequential(WindowACmix(8, 2, rates=(1, 0), learn_rates=False)), 'x.pth')
    with pytest.raises(ValueError, match='the model lacks .*relative_position_bias_table'):
        check_fit(state_dict, nn.Sequential(nn.Linear(8, 8)), 'x.pth')


@pytest.mark.parametrize(
    'unsound',
    [
        lambda weight: weight.index_fill(0, torch.tensor(0), torch.nan),
        lambda weight: weight.index_fill(0, torch.tensor(0), torch.inf),
        lambda weight: weight.to('meta'),
        lambda weight: weight.to_sparse(),
    ],
    ids=['nan', 'inf', 'meta', 'sparse'],
)
def test_weights_that_are_not_finite_numbers_are_refused(model, unsound):
    weights = model.state_dict()
    weights['1.weight'] = unsound(weights['1.weight'])
    with pytest.raises(ValueError, match='has weights that are not finite numbers, 1 of them: 1.weight'):
        check_fit(weights, model, 'x.pth', partial=True)
