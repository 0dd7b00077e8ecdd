"""The rooms of the package: which may import which, what they need of others, and names that say one thing."""

import ast
from pathlib import Path

import pytest

import mmacmix

PACKAGE = Path(mmacmix.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts)
# From top to bottom; a room imports rooms of lower floors, and those on its own floor only as listed.
FLOORS = [
    {'cli', '__init__'},
    {'inference', 'deploy', 'engine', 'registration'},
    {'reporting', 'backbones', 'datasets'},
    {'layers', 'checkpoints'},
    {'ops'},
    {'versions', 'version'},
    {'errors'},
]
ON_ONE_FLOOR = {('inference', 'deploy'), ('reporting', 'datasets'), ('__init__', 'cli')}
OPENMMLAB = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}


def room(path):
    """The subpackage that a module belongs to, or the module itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def floor(name):
    (index,) = [index for index, names in enumerate(FLOORS) if name in names]
    return index


def imports(path, everywhere=True):
    """Pairs of a package and a room, None outside of this package, that a module imports; everywhere or on top."""
    package = path.relative_to(PACKAGE).parts[:-1]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition('.')[0], None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module.partition('.')[0], None
                continue
            parts = [*package[: len(package) - node.level + 1], *(node.module or '').split('.')]
            parts = [part for part in parts if part]
            for name in [parts[0]] if parts else [alias.name for alias in node.names]:
                yield 'mmacmix', name


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    own = room(path)
    for package, other in imports(path):
        if package == 'mmacmix' and other != own and (own, other) not in ON_ONE_FLOOR:
            assert other in set().union(*FLOORS) and floor(other) > floor(own), f'{own} imports {other}'


def test_operators_and_layers_import_torch_alone():
    allowed = {'collections', 'functools', 'importlib', 'math', 'typing', 'torch', 'triton', 'mmacmix'}
    for path in MODULES:
        if room(path) in ('ops', 'layers'):
            assert {package for package, _ in imports(path)} <= allowed, path


def test_no_host_is_imported_with_the_package():
    lazily = PACKAGE / 'reporting' / 'class_iou.py'  # named in a config's custom_imports
    for path in MODULES:
        if path != lazily:
            assert not {package for package, _ in imports(path, everywhere=False)} & {'mmdet', 'mmseg', 'mmpretrain'}


def test_no_function_has_the_name_of_its_module():
    for path in MODULES:
        functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert path.stem not in functions, path


def test_modules_of_a_room_import_each_other_without_circles():
    graph = {}
    for path in MODULES:
        name = path.relative_to(PACKAGE).with_suffix('').parts
        graph[name] = set()
        for node in ast.parse(path.read_text()).body:  # what is imported for type checkers stands inside an if
            if isinstance(node, ast.ImportFrom) and node.level:
                base = (*name[: len(name) - node.level], *(node.module or '').split('.'))
                base = tuple(part for part in base if part)
                graph[name] |= {base, *((*base, alias.name) for alias in node.names)}
    graph = {name: {other for other in others if other in graph} for name, others in graph.items()}
    while leaves := [name for name, others in graph.items() if not others]:
        graph = {name: others - set(leaves) for name, others in graph.items() if name not in leaves}
    assert not graph
