"""Guards the structure of the package: which rooms import which, what they need besides, and no circles."""

import ast
from pathlib import Path

import pytest

import mmacmix

PACKAGE = Path(mmacmix.__file__).parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob('*.py')) if '.mim' not in path.parts}
# From top to bottom. A room imports rooms from lower floors, and from its own floor only as listed below.
FLOORS = [
    {'cli', '__init__'},
    {'inference', 'deploy', 'engine', 'integrations', 'registration'},
    {'reporting', 'backbones', 'necks', 'datasets'},
    {'layers', 'checkpoints'},
    {'ops', 'mmcv_ext'},
    {'versions', 'version'},
    {'errors'},
]
ON_ONE_FLOOR = {('inference', 'deploy'), ('reporting', 'datasets')}
HOSTS = {'mmdet', 'mmseg', 'mmpretrain'}


def room(path):
    """The subpackage that a module belongs to, or the name of a module at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def floor(name):
    (index,) = [index for index, names in enumerate(FLOORS) if name in names]
    return index


def nodes(tree, lazy):
    """The nodes of a tree; those inside functions run later than the import and are included only if ``lazy``."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from nodes(node, lazy)


def imports(path, lazy=True):
    """Pairs of the package and, within this one, the room that a module imports."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in nodes(TREES[path], lazy):
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


@pytest.mark.parametrize('path', TREES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    own = room(path)
    for package, other in imports(path):
        if package == 'mmacmix' and other != own and (own, other) not in ON_ONE_FLOOR:
            assert other in set().union(*FLOORS) and floor(other) > floor(own), f'{own} imports {other}'


def test_operators_and_layers_import_only_torch():
    standard = {'collections', 'contextlib', 'functools', 'importlib', 'itertools', 'math', 'typing'}
    standard |= {'operator', 'os', 'threading', 'types', 'warnings'}  # for the choice of a backend
    allowed = standard | {'torch', 'triton', 'mmacmix'}
    for path in TREES:
        if room(path) in ('ops', 'layers'):
            assert {package for package, _ in imports(path)} <= allowed, path


def test_no_host_is_imported_with_the_package():
    in_custom_imports = PACKAGE / 'reporting' / 'class_iou.py'  # imported by configs only
    for path in TREES:
        if path != in_custom_imports:
            assert not {package for package, _ in imports(path, lazy=False)} & HOSTS, path


def test_no_function_has_the_name_of_its_module():
    for path, tree in TREES.items():
        assert path.stem not in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], path


def test_modules_import_each_other_without_circles():
    graph = {}
    for path, tree in TREES.items():
        name = path.relative_to(PACKAGE).with_suffix('').parts
        graph[name] = set()
        for node in nodes(tree, lazy=False):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = (*name[: len(name) - node.level], *(node.module or '').split('.'))
                base = tuple(part for part in base if part)
                graph[name] |= {base, *((*base, alias.name) for alias in node.names)}
    graph = {name: {other for other in others if other in graph} for name, others in graph.items()}
    while leaves := [name for name, others in graph.items() if not others]:
        graph = {name: others - set(leaves) for name, others in graph.items() if name not in leaves}
    assert not graph
