"""The package runs on the oldest supported torch: the smallest part of `make matrix`."""

import re
import subprocess
import sys

import pytest

from tests.matrix import STACKS
from tests.tooling import ROOT, interpreter


@pytest.mark.slow
def test_the_oldest_stack():
    if interpreter(STACKS['oldest'].python) is None:
        pytest.skip(f'this machine has no Python {STACKS["oldest"].python}')
    matrix = [sys.executable, ROOT / 'tests' / 'matrix.py', 'oldest']
    done = subprocess.run(matrix, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r'\| 2\.1\.2\+\S+ \|.* (\d+) passed, \d+ skipped \|', done.stdout)
    assert int(passed) > 1000
