"""Reading checkpoints as data without effects on the process, finding state dicts, and checking that they fit."""

import os
import shutil
import sys
import types
from contextlib import nullcontext

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from torch import nn

from mmacmix.checkpoints import WeightsError, load_checkpoint, state_dict_of
from mmacmix.checkpoints.data_pickle import TORCH_IS_OLD
from mmacmix.checkpoints.io import check_fit
from mmacmix.layers import WindowACmix
from tests.conftest import needs_torch
from tests.tooling import python


def safe_globals():
    """What ``torch.load`` accepts beside tensors, since torch 2.6."""
    return None if TORCH_IS_OLD else set(torch.serialization.get_safe_globals())


def process_state():
    """Settings of the process that reading a checkpoint might change."""
    return (
        dict(os.environ),
        torch.load,
        safe_globals(),
        dict(CheckpointLoader._schemes),
    )


def test_building_and_loading_a_network_changes_no_setting_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    cfg = dict(type='ACmixResNet', depth=26, base_channels=8)
    before = process_state()
    torch.save(dict(state_dict=MODELS.build(cfg).state_dict()), tmp_path / 'weights.pth')
    network = MODELS.build(cfg | dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))))
    network.init_weights()
    loaded = state_dict_of(load_checkpoint(tmp_path / 'weights.pth'))
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())
    assert process_state() == before


def test_importing_changes_no_setting_of_the_process():
    done = python("""
        import os, torch
        from mmengine.runner import CheckpointLoader
        def state():
            safe = getattr(torch.serialization, 'get_safe_globals', list)()
            return dict(os.environ), torch.load, set(safe), dict(CheckpointLoader._schemes)
        before = state()
        import mmacmix, mmacmix.inference
        assert state() == before
    """)
    assert done.returncode == 0, done.stderr


class ReachOut:
    """Pickled as a lookup of an attribute from which any object can be reached."""

    def __reduce__(self):
        from mmengine.logging import HistoryBuffer

        return getattr, (HistoryBuffer, '__init__')


def test_no_attributes_but_the_statistics_of_log_buffers_can_be_looked_up(tmp_path):
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


def test_a_checkpoint_of_the_original_swin_repository_is_read_with_its_settings(tmp_path, monkeypatch):
    module = types.ModuleType('yacs.config')

    class CfgNode(dict):
        """As in yacs: a dict with an attribute."""

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


@needs_torch('2.6', 'allowing further types by name')
def test_entries_that_the_process_already_allows_stay_allowed(tmp_path):
    from mmengine.logging import HistoryBuffer

    torch.save(dict(state_dict=dict(a=torch.ones(1)), loss=HistoryBuffer([1.0], [1])), tmp_path / 'state.pth')
    with torch.serialization.safe_globals([HistoryBuffer]):
        before = set(torch.serialization.get_safe_globals())
        load_checkpoint(tmp_path / 'state.pth')
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize('scheme', ['', 'file://', 'http://'])
def test_files_and_addresses_are_read_and_code_in_them_is_refused(tmp_path, monkeypatch, scheme):
    from mmengine import fileio

    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # the default of torch.load
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, to: shutil.copy(path, to))
    monkeypatch.setattr(fileio, 'get_local_path', lambda address: nullcontext(path))
    path = tmp_path / 'good.pth'
    torch.save(dict(a=torch.ones(2)), path)
    assert load_checkpoint(f'{scheme}{path}')['a'].tolist() == [1, 1]
    path = tmp_path / 'bad.pth'
    torch.save(ReachOut(), path)
    with pytest.raises(WeightsError, match='could run code'):
        load_checkpoint(f'{scheme}{path}')


def test_checkpoints_are_read_without_openmmlab(tmp_path):
    path = str(tmp_path / 'weights.pth')
    done = python(f"""
        import sys
        sys.modules.update(mmengine=None, mmcv=None)  # imports fail
        import torch
        from mmacmix.checkpoints import load_checkpoint
        torch.save(dict(a=torch.ones(1)), {path!r})
        assert load_checkpoint({path!r})['a'] == 1
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(state_dict=s, meta={}), lambda s: dict(model=s)])
def test_the_state_dict_is_found_bare_or_wrapped(wrap):
    assert state_dict_of(wrap(dict(a=torch.ones(1)))).keys() == {'a'}


@pytest.mark.parametrize('thing', [{}, [1], dict(epoch=3), dict(state_dict={})])
def test_anything_without_a_state_dict_is_refused(thing):
    with pytest.raises(ValueError, match=r'x\.pth holds no state dict'):
        state_dict_of(thing, 'x.pth')


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))


def test_the_state_dict_of_a_wrapped_model_fits_the_bare_one(model):
    assert check_fit(state_dict_of(nn.DataParallel(model).state_dict()), model, 'x.pth') is None


def test_another_head_is_refused_unless_a_partial_fit_is_accepted(model):
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    with pytest.raises(ValueError, match='is a checkpoint of another model: shapes differ for 1.weight, 1.bias'):
        check_fit(model.state_dict(), other, 'x.pth')
    note = check_fit(model.state_dict(), other, 'x.pth', partial=True)
    assert note == 'x.pth fits the model in part: shapes differ for 1.weight, 1.bias'


def test_a_state_dict_without_common_keys_is_refused(model):
    with pytest.raises(
        ValueError, match='it lacks weight, bias; the model lacks 0.weight, 0.bias, 1.weight and 1 more'
    ):
        check_fit(model.state_dict(), nn.Linear(4, 8), 'x.pth', partial=True)


def test_a_state_dict_that_load_hooks_adapt_fits():
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
