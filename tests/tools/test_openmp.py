"""OpenMP's threads sleep while they wait in tools that run networks."""

import re

import pytest

from tests.tooling import ROOT, start


@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'infer.py', 'benchmark.py'])
@pytest.mark.parametrize('asked, expected', [(None, 'PASSIVE'), ('active', 'ACTIVE')])
def test_threads_wait_as_asked(tool, asked, expected, tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    asked = {} if asked is None else dict(OMP_WAIT_POLICY=asked)
    done = start(ROOT / 'tools' / tool, '--help', cwd=tmp_path, OMP_DISPLAY_ENV='true', **asked)
    assert done.returncode == 0
    policies = re.findall(r"OMP_WAIT_POLICY *= *'(\w+)'", done.stderr)  # of each OpenMP library in the process
    assert policies and set(policies) == {expected}
