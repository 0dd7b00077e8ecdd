"""OpenMP's threads sleep while they wait in tools that run networks beside busy processes."""

import os
import re

import pytest

from tests.tooling import ROOT, load, start


@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'infer.py', 'benchmark.py'])
@pytest.mark.parametrize('asked, expected', [(None, 'PASSIVE'), ('active', 'ACTIVE')])
def test_threads_wait_as_asked_or_sleep_beside_busy_processes(tool, asked, expected, tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    asked = {} if asked is None else dict(OMP_WAIT_POLICY=asked)
    with load('benchmark.py').neighbors(len(os.sched_getaffinity(0))):
        done = start(ROOT / 'tools' / tool, '--help', cwd=tmp_path, OMP_DISPLAY_ENV='true', **asked)
    assert done.returncode == 0
    policies = re.findall(r"OMP_WAIT_POLICY *= *'(\w+)'", done.stderr)  # of each OpenMP library in the process
    assert policies and set(policies) == {expected}


@pytest.mark.parametrize('idle, expected', [(20, False), (16, False), (14, True), (0, True)])
def test_a_machine_is_busy_from_a_quarter_of_its_cores(idle, expected, monkeypatch):
    openmp, times = load('openmp.py'), iter([(100, 400), (100 + idle, 420)])
    monkeypatch.setattr(openmp, 'core_time', lambda: next(times))
    assert openmp.is_busy() == expected


def test_times_of_cores_are_those_of_this_process():
    idle, total = load('openmp.py').core_time()
    assert 0 <= idle <= total and total > 0
