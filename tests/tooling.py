"""Calling a tool in the tests' own process, where that tells as much as a process of its own."""

import importlib.util
from pathlib import Path

import pytest

from mmacmix.errors import UserError

ROOT = Path(__file__).parents[1]


def load(name):
    """The module of ``tools/<name>``."""
    spec = importlib.util.spec_from_file_location(name.removesuffix('.py'), ROOT / 'tools' / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def complaint(name, arguments, capsys):
    """What the tool says about arguments that it can't work with."""
    tool = load(name)
    with pytest.raises((UserError, SystemExit)) as caught:
        tool.main(list(map(str, arguments)))
    return str(caught.value) if issubclass(caught.type, UserError) else capsys.readouterr().err.splitlines()[-1]
