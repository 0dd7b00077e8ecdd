"""Errors inside a guard are suppressed, and only the first one is logged."""

from types import SimpleNamespace

import pytest

from mmacmix.reporting import guard


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(guard, 'print_log', lambda message, *_: messages.append(message))
    return messages


def test_the_first_error_is_one_warning_and_later_work_still_runs(warnings):
    guarded, done = guard.Guard('tables'), []
    for number in range(4):
        with guarded():
            if number in (1, 2):
                raise OSError(28, 'No space left on device')
            done.append(number)
    assert done == [0, 3]
    assert warnings == ['tables cannot be written, and the run continues: OSError [Errno 28] No space left on device']


def test_interrupts_pass(warnings):
    with pytest.raises(KeyboardInterrupt), guard.Guard('tables')():
        raise KeyboardInterrupt
    assert warnings == []


def test_scalars_that_cannot_be_written_are_one_warning(warnings):
    written = []

    def add_scalars(scalars, step=0, file_path=None):
        if step:
            raise OSError(28, 'No space left on device')
        written.append((scalars, step, file_path))

    visualizer = SimpleNamespace(add_scalars=add_scalars)
    guard.guard_scalars(visualizer)
    for step in range(3):
        visualizer.add_scalars(dict(loss=1.0), step=step, file_path='scalars.json')
    assert written == [(dict(loss=1.0), 0, 'scalars.json')]
    assert len(warnings) == 1 and warnings[0].startswith('scalars cannot be written')
