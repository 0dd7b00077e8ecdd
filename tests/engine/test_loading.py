"""Checkpoints that a run starts or resumes from are read once and must fit the model, or one sentence refuses them."""

import cv2
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmacmix.checkpoints import data_pickle
from mmacmix.checkpoints.data_pickle import TORCH_IS_OLD
from mmacmix.engine import DataOnlyHook, PlainStateHook, RandomStateHook, check_loading, load_once, resume
from mmacmix.errors import UserError
from mmacmix.inference import Predictor
from tests.tooling import load

SHORT = [
    'train_cfg.val_interval=9',
    'train_dataloader.batch_size=2',
    'default_hooks.checkpoint.interval=1',
    *(f'{part}_dataloader.num_workers=0' for part in ('train', 'val', 'test')),
    *(f'{part}_dataloader.persistent_workers=False' for part in ('train', 'val', 'test')),
]


@pytest.fixture
def reads(monkeypatch):
    """The paths that torch's own ``torch.load`` is called with."""
    module, name = (data_pickle, '_load') if TORCH_IS_OLD else (torch, 'load')
    paths, read = [], getattr(module, name)

    def recorded(path, *arguments, **named):
        paths.append(str(getattr(path, 'name', path)))  # before torch 2.6 an open file
        return read(path, *arguments, **named)

    monkeypatch.setattr(module, name, recorded)
    return paths


@pytest.fixture
def work_dir(trained, tmp_path, monkeypatch):
    """The current directory, from which a run finds its data."""
    (tmp_path / 'data').symlink_to(trained[-1].parents[2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_training_reads_its_checkpoint_once(trained, work_dir, reads):
    _, config, checkpoint, _ = trained
    train = load('train.py').main
    common = [str(config), '--work-dir', str(work_dir), '--cfg-options', *SHORT]
    train([*common, f'load_from={checkpoint}', 'train_cfg.max_iters=1'])
    assert reads.pop() == str(checkpoint) and not reads
    first, second = (str(work_dir / f'iter_{iteration}.pth') for iteration in (1, 2))
    train([*common, 'train_cfg.max_iters=2', '--resume'])
    assert reads.pop() == first and not reads
    train([*common, 'train_cfg.max_iters=3', '--resume', second])
    assert reads.pop() == second and not reads


def test_testing_reads_its_checkpoint_once(trained, work_dir, reads):
    _, config, checkpoint, _ = trained
    load('test.py').main([str(config), str(checkpoint), '--fuse', '--cfg-options', *SHORT])
    assert reads == [str(checkpoint)]


def test_a_predictor_reads_its_checkpoint_once(trained, reads):
    _, config, checkpoint, images = trained
    Predictor(Config.fromfile(config), str(checkpoint))(cv2.imread(str(min(images.iterdir()))))
    assert reads == [str(checkpoint)]


def test_weights_of_the_format_safetensors_are_trained_tested_and_used(trained, work_dir, capsys):
    _, config, checkpoint, images = trained
    weights = str(work_dir / 'weights.safetensors')
    load('convert_checkpoint.py').main(['mmacmix', str(checkpoint), weights])
    load('test.py').main([str(config), weights, '--cfg-options', *SHORT])
    options = [*SHORT, f'load_from={weights}', 'train_cfg.max_iters=1']
    load('train.py').main([str(config), '--work-dir', str(work_dir), '--cfg-options', *options])
    assert (work_dir / 'iter_1.pth').exists()
    load('infer.py').main([str(config), weights, str(min(images.iterdir())), '--out-dir', str(work_dir / 'out')])
    assert '1 of 1 images' in capsys.readouterr().out
    with pytest.raises(UserError, match='holds no training state to resume'):
        resume(Config(dict(work_dir=str(work_dir), load_from=weights)))


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))


@pytest.fixture
def check_fit(tmp_path):
    """Check a checkpoint, as it is before MMEngine loads it."""

    def check(checkpoint, model, partial=False):
        torch.save(checkpoint, tmp_path / 'saved.pth')
        try:
            check_loading(str(tmp_path / 'saved.pth'), model, partial)
        finally:
            assert load_once(str(tmp_path / 'saved.pth')).keys() == checkpoint.keys()  # handed over

    return check


def test_a_checkpoint_fits_a_wrapped_model(model, check_fit):
    check_fit(dict(state_dict=model.state_dict()), nn.DataParallel(model))


def test_a_partial_fit_is_enough_to_start_training(model, check_fit):
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    check_fit(dict(state_dict=model.state_dict()), other, partial=True)
    with pytest.raises(UserError, match='saved.pth is a checkpoint of another model'):
        check_fit(dict(state_dict=model.state_dict()), other)


def test_weights_that_mmengine_would_not_find_are_refused(model, check_fit):
    with pytest.raises(UserError, match='has its weights under "model"; MMEngine expects them under "state_dict"'):
        check_fit(dict(model=model.state_dict()), model)


def test_config_text_that_mmengine_would_run_is_removed():
    checkpoint = dict(state_dict={}, meta=dict(config='raise SystemExit', epoch=1))
    DataOnlyHook().after_load_checkpoint(None, checkpoint)
    assert checkpoint['meta'] == dict(epoch=1)


@pytest.mark.parametrize('meta', [None, [1]])
@pytest.mark.parametrize('hook', [DataOnlyHook, PlainStateHook, RandomStateHook])
def test_foreign_checkpoints_may_have_any_meta(hook, meta):
    hook().after_load_checkpoint(None, dict(meta=meta))


@pytest.fixture
def saved(model, tmp_path):
    """A checkpoint that can be resumed, and its config."""
    state = torch.optim.SGD(model.parameters(), 0.1).state_dict()
    meta = dict(epoch=0, iter=1, seed=7)
    checkpoint = dict(state_dict=model.state_dict(), optimizer=state, meta=meta, message_hub={})
    return checkpoint, Config(dict(work_dir=str(tmp_path), load_from=str(tmp_path / 'saved.pth')))


@pytest.mark.parametrize('seed, expected', [(None, 7), (3, 3)])
def test_the_seed_is_the_checkpoints_unless_the_config_sets_one(saved, seed, expected):
    checkpoint, cfg = saved
    torch.save(checkpoint, cfg.load_from)
    cfg.randomness = dict(seed=seed)
    resume(cfg)
    assert cfg.resume and cfg.randomness.seed == expected


@pytest.mark.parametrize('meta', [None, [1], dict(epoch=0), dict(epoch=0, iter=-3), dict(epoch=0, iter='5')])
def test_a_checkpoint_without_progress_is_not_resumed(saved, meta):
    checkpoint, cfg = saved
    torch.save(checkpoint | dict(meta=meta), cfg.load_from)
    with pytest.raises(UserError, match='saved.pth holds no training state to resume'):
        resume(cfg)


def test_sharded_training_resumes_only_its_own_checkpoints(saved, model):
    checkpoint, cfg = saved
    cfg.strategy = dict(type='ShardedStrategy')
    torch.save(checkpoint, cfg.load_from)
    with pytest.raises(UserError, match='was not written by FSDP, so FSDP cannot resume it: start from its weights'):
        resume(cfg)
    checkpoint['optimizer']['param_groups'][0]['params'] = [name for name, _ in model.named_parameters()]
    torch.save(checkpoint, cfg.load_from)
    resume(cfg)
    assert cfg.resume
