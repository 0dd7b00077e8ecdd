"""Runs tools and code in the tests' process or in processes of their own."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mmacmix.errors import UserError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tools'))  # as when a tool is run


def load(name):
    """The module of ``tools/<name>``."""
    spec = importlib.util.spec_from_file_location(name.removesuffix('.py'), ROOT / 'tools' / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(tool, *arguments, cwd, preexec_fn=None, **environment):
    """Run a tool in a process of its own with one thread, and wait for its end."""
    return subprocess.run(
        [sys.executable, str(tool), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
        preexec_fn=preexec_fn,
    )


def own_words(stderr):
    """What a tool writes to stderr, without the warning of torch 2.4 when MMEngine imports it."""
    return re.sub(r'\S+ DeprecationWarning: `TorchScript` support for functional optimizers .*\n  .*\n', '', stderr)


def python(*parts):
    """Run code, in parts that may be indented, in an interpreter of its own."""
    code = '\n'.join(map(textwrap.dedent, parts))
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)


def complaint(name, arguments, capsys):
    """The message with which a tool refuses its arguments."""
    tool = load(name)
    with pytest.raises((UserError, SystemExit)) as caught:
        tool.main(list(map(str, arguments)))
    return str(caught.value) if issubclass(caught.type, UserError) else capsys.readouterr().err.splitlines()[-1]


def interpreter(version):
    """A working interpreter: this one, one on the PATH, or one beside this one, where version managers install them."""
    if version == f'{sys.version_info.major}.{sys.version_info.minor}':
        return sys.executable
    beside = sorted(Path(sys.base_prefix).parent.glob(f'*{version}*/bin/python{version}'))
    for path in filter(None, (shutil.which(f'python{version}'), *beside)):
        if subprocess.run([path, '-c', ''], capture_output=True, check=False).returncode == 0:
            return path
    return None
