"""Old checkpoints are removed only after a new one has been written."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub, MMLogger

from mmacmix.engine import AtomicCheckpointHook


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A runner whose checkpoints are empty files; a full disk refuses the fifth one."""
    seen = []

    def save_checkpoint(out_dir, filename, *_, **__):
        seen.append(names(tmp_path))
        if filename == 'iter_5.pth':
            raise OSError('No space left on device')
        (Path(out_dir) / filename).touch()

    hub, logger = MessageHub(str(tmp_path)), MMLogger(str(tmp_path))
    return SimpleNamespace(
        work_dir=str(tmp_path), message_hub=hub, logger=logger, epoch=0, save_checkpoint=save_checkpoint, seen=seen
    )


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def started(runner):
    hook = AtomicCheckpointHook(interval=1, by_epoch=False, max_keep_ckpts=2)
    hook.before_train(runner)
    return hook


def test_the_oldest_checkpoint_is_removed_after_the_newest_is_written(runner, tmp_path):
    hook = started(runner)
    for runner.iter in range(4):
        hook._save_checkpoint(runner)
    assert runner.seen[3] == ['iter_2.pth', 'iter_3.pth']
    assert names(tmp_path) == ['iter_3.pth', 'iter_4.pth']
    hook._save_checkpoint(runner)  # again, as the best one
    assert names(tmp_path) == ['iter_3.pth', 'iter_4.pth']
    runner.iter = 4
    with pytest.raises(OSError, match='No space left'):
        hook._save_checkpoint(runner)
    assert names(tmp_path) == ['iter_3.pth', 'iter_4.pth'] and hook.max_keep_ckpts == 2


def test_resuming_removes_a_checkpoint_that_a_crash_left(runner, tmp_path):
    hook = started(runner)
    for runner.iter in range(3):
        hook._save_checkpoint(runner)
    (tmp_path / 'iter_1.pth').touch()  # the process was killed before it removed this one
    started(runner)
    assert names(tmp_path) == ['iter_2.pth', 'iter_3.pth']
