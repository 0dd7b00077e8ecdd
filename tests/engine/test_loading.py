"""Checkpoints that a run starts or resumes from: read once, checked against the model, refused in a sentence."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmacmix.engine import DataOnlyHook, LoadingHook, PlainStateHook, RandomStateHook, load_once, resume
from mmacmix.errors import UserError


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a two-layer network, and the network."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    path = tmp_path / 'saved.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path), model


def loaded(checkpoint, model, partial=False):
    """What MMEngine does once it has read a checkpoint."""
    LoadingHook('saved.pth', partial).after_load_checkpoint(SimpleNamespace(model=model), checkpoint)


def test_a_wrapped_model_is_compared_by_what_is_inside(saved):
    loaded(dict(state_dict=saved[1].state_dict()), nn.DataParallel(saved[1]))


def test_a_part_is_enough_to_start_a_training(saved):
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    loaded(dict(state_dict=saved[1].state_dict()), other, partial=True)
    with pytest.raises(UserError, match='saved.pth is a checkpoint of another model'):
        loaded(dict(state_dict=saved[1].state_dict()), other)


def test_weights_that_mmengine_would_not_find_are_refused(saved):
    with pytest.raises(UserError, match='has weights under "model", and MMEngine looks for them under "state_dict"'):
        loaded(dict(model=saved[1].state_dict()), saved[1])


def test_a_text_that_mmengine_would_run_is_removed():
    checkpoint = dict(state_dict={}, meta=dict(config='raise SystemExit', epoch=1))
    DataOnlyHook().after_load_checkpoint(None, checkpoint)
    assert checkpoint['meta'] == dict(epoch=1)


@pytest.mark.parametrize('meta', [None, [1], dict(epoch=0), dict(epoch=0, iter=-3), dict(epoch=0, iter='5')])
def test_a_checkpoint_without_progress_is_not_resumed(saved, tmp_path, meta):
    path, model = saved
    torch.save(dict(state_dict=model.state_dict(), message_hub={}, meta=meta), path)
    with pytest.raises(UserError, match='saved.pth holds weights and no training state to resume'):
        resume(Config(dict(work_dir=str(tmp_path), load_from=path)))


def test_what_is_resumed_is_read_once(saved, tmp_path, monkeypatch):
    path, model = saved
    torch.save(dict(state_dict=model.state_dict(), message_hub={}, meta=dict(epoch=0, iter=1, seed=7)), path)
    cfg = Config(dict(work_dir=str(tmp_path), load_from=path))
    resume(cfg)
    assert cfg.randomness.seed == 7
    monkeypatch.setattr(torch, 'load', None)
    assert load_once(path)['meta']['seed'] == 7
    with pytest.raises(UserError, match='cannot be read'):  # a second time it would be read from the file
        load_once(path)


@pytest.mark.parametrize('meta', [None, [1]])
@pytest.mark.parametrize('hook', [DataOnlyHook, PlainStateHook, RandomStateHook])
def test_weights_of_others_may_have_any_meta(hook, meta):
    hook().after_load_checkpoint(None, dict(meta=meta))


def test_a_training_that_is_shared_out_resumes_its_own_checkpoints(saved, tmp_path):
    _, model = saved
    path, names = str(tmp_path / 'saved.pth'), [name for name, _ in model.named_parameters()]
    state = torch.optim.SGD(model.parameters(), 0.1).state_dict()
    checkpoint = dict(state_dict=model.state_dict(), optimizer=state, meta=dict(epoch=0, iter=1), message_hub={})
    cfg = Config(dict(work_dir=str(tmp_path), load_from=path, strategy=dict(type='ShardedStrategy')))
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match='was not written by FSDP, which resumes its own: start from it with load_from'):
        resume(cfg)
    state['param_groups'][0]['params'] = names
    torch.save(checkpoint, path)
    resume(cfg)
    assert cfg.resume
