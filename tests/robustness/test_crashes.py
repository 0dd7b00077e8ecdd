"""Trainings that are killed, or whose disk runs full, at any moment resume from an intact checkpoint."""

import os
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch

from mmacmix.checkpoints import load_checkpoint
from mmacmix.datasets import write_shapes
from mmacmix.engine import AtomicFileBackend, latest_checkpoint
from tests.tooling import ROOT, load, start

CONFIG = ROOT / 'configs' / 'shapes' / 'mask-rcnn_acmix-r26_shapes.py'
STEPS = 60
OPTIONS = [
    'model.backbone.base_channels=8',
    'model.neck.in_channels=[32,64,128,256]',
    'train_dataloader.batch_size=1',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=1',
    'default_hooks.logger.interval=1',
    f'train_cfg.max_iters={STEPS}',
    f'train_cfg.val_interval={STEPS // 2}',
]
IN_PROCESS = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
WORKERS = ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']


@pytest.fixture
def folder(tmp_path):
    """A working directory with the data set."""
    write_shapes(tmp_path / 'data' / 'shapes', train=8, val=1)
    return tmp_path


def train(folder, work_dir, options, *more):
    """Fork a training from this process, which has imported everything; its ID, which is also that of its group."""
    process = os.fork()
    if process:
        os.setpgid(process, process)
        return process
    try:
        os.chdir(folder)
        log = os.open(f'{work_dir}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        load('train.py').main([str(CONFIG), '--work-dir', work_dir, *more, '--cfg-options', *OPTIONS, *options])
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)


def wait(process):
    """The status of a training when it has ended, without workers left over."""
    _, status = os.waitpid(process, 0)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    return status


def weights(folder):
    return load_checkpoint(latest_checkpoint(folder))


def kill_trainings(folder, times, options):
    """Complete one training, and one that is killed a number of times. Runs in a process without threads."""
    folder, times, rng = Path(folder), int(times), random.Random(0)
    for name in ('mmdet.datasets', 'mmdet.models', 'mmdet.evaluation', 'mmdet.visualization'):  # once for all forks
        import_module(name)

    def succeed(work_dir, status):
        assert status == 0, (folder / f'{work_dir}.log').read_text()[-2000:]

    started = time.monotonic()
    succeed('whole', wait(train(folder, 'whole', options)))
    seconds = time.monotonic() - started
    kills = 0
    while kills < times:
        process = train(folder, 'killed', options, '--resume')
        time.sleep(rng.uniform(0, min(3 / times, 0.35) * seconds))
        os.kill(process, signal.SIGKILL)
        status = wait(process)
        if os.WIFSIGNALED(status):
            kills += 1
            if latest := latest_checkpoint(folder / 'killed'):
                load_checkpoint(latest)  # raises unless it is complete
        else:
            succeed('killed', status)
    succeed('killed', wait(train(folder, 'killed', options, '--resume')))
    return kills


@pytest.mark.slow
@pytest.mark.parametrize('options, kills', [(IN_PROCESS, 20), (WORKERS, 4)], ids=['without workers', 'with workers'])
def test_a_training_killed_again_and_again_ends_with_the_same_weights(folder, options, kills):
    # This process has threads, so trainings are forked from another one.
    module = ['-m', 'tests.robustness.test_crashes']
    done = start(*module, folder, kills, *options, cwd=ROOT, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f'{kills} kills'
    whole, killed = (weights(folder / name) for name in ('whole', 'killed'))
    assert whole['meta']['iter'] == killed['meta']['iter'] == STEPS
    assert whole['state_dict'].keys() == killed['state_dict'].keys()
    assert all(torch.equal(value, killed['state_dict'][name]) for name, value in whole['state_dict'].items())
    assert not list(folder.glob('*/*.part'))


def test_a_full_disk_leaves_earlier_files_complete(tmp_path):
    """The system refuses files beyond a size, as a full disk does."""
    backend, path = AtomicFileBackend(), tmp_path / 'new' / 'iter_1.pth'
    backend.put(b'before', path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match='earlier files are complete.*iter_1.pth'):
            backend.put(b'x' * 2000, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b'before' and [each.name for each in path.parent.iterdir()] == ['iter_1.pth']


@pytest.mark.slow
def test_a_training_on_a_full_disk_says_so_and_resumes_from_its_last_checkpoint(folder):
    def resumed(*more, preexec_fn=None):
        options = ['--cfg-options', *OPTIONS, *IN_PROCESS, 'train_cfg.val_interval=9', *more]
        tool = ROOT / 'tools' / 'train.py'
        return start(tool, CONFIG, '--work-dir', 'run', '--resume', *options, cwd=folder, preexec_fn=preexec_fn)

    done = resumed('train_cfg.max_iters=1')
    assert done.returncode == 0, done.stderr
    size = (folder / 'run' / 'iter_1.pth').stat().st_size
    fill = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size // 2, size // 2))
    done = resumed('train_cfg.max_iters=3', preexec_fn=fill)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'earlier files are complete' in done.stderr.splitlines()[-1]
    assert weights(folder / 'run')['meta']['iter'] == 1
    done = resumed('train_cfg.max_iters=2')
    assert done.returncode == 0, done.stderr
    assert weights(folder / 'run')['meta']['iter'] == 2


def test_the_latest_checkpoint_is_found_whatever_a_crash_left(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for name in ('iter_9.pth', 'iter_10.pth', 'best_iter_11.pth', 'iter_12.pth.part'):
        (tmp_path / name).touch()
    note = tmp_path / 'last_checkpoint'
    for named in ('', str(tmp_path / 'iter_8.pth')):  # truncated, or naming a file that was removed
        note.write_text(named)
        assert latest_checkpoint(tmp_path) == str(tmp_path / 'iter_10.pth')
    note.write_text(str(tmp_path / 'iter_9.pth'))
    assert latest_checkpoint(tmp_path) == str(tmp_path / 'iter_9.pth')


if __name__ == '__main__':
    print(kill_trainings(*sys.argv[1:3], sys.argv[3:]), 'kills')
