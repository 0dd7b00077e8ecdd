"""Runs the tests with other versions of PyTorch, Python and the host libraries, and prints one table.

    make matrix
    python tests/matrix.py [--cache FOLDER] [STACK ...]

Builds the environments of the named stacks (default: all) one after the other, and keeps them in the cache for the next
run. Exits with 1 if anything failed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.tooling import interpreter  # noqa: E402

CORE = ('tests/ops', 'tests/layers', 'tests/backbones', 'tests/checkpoints', 'tests/integrations')
# Without those of the set-up, the locks, the documentation and speed, which do not depend on the stack.
ALL = ('tests', '-m', 'not slow', *(f'--ignore=tests/test_{name}.py' for name in ('install', 'lock', 'docs', 'speed')))
TOOLS = (
    'pytest==8.4.2',
    'pytest-xdist==3.8.0',
    'hypothesis==6.168.5',
    'jinja2',
    'safetensors',
    'tensorboard',
    'onnx',
    'onnxscript',
    'onnxruntime',
    'segmentation-models-pytorch',
    'opencv-python-headless==4.11.0.86',
)
OPENMMLAB = ('mmengine==0.10.7', 'mmdet==3.3.0', 'mmsegmentation==1.2.2', 'mmpretrain==1.2.0', 'ftfy', 'regex')
OLDEST_FRAMEWORKS = ('timm==0.9.2', 'huggingface_hub==0.24.0')
COMPILED = ('--no-build-isolation', '--no-cache-dir', '--no-deps', 'mmcv==2.1.0')
COMPILERS = re.compile(r'(.*-)?(cc|c\+\+|gcc|g\+\+|clang|clang\+\+|nvcc)(-[\d.]+)?$')


@dataclass
class Stack:
    """One environment and what runs in it.

    Attributes:
        python: Version of Python.
        torch: Requirements for PyTorch and torchvision; three signs ask for exactly PyPI's build.
        numpy: Requirement for NumPy.
        frameworks: Requirements for what is integrated.
        compiled: Compile MMCV's operators instead of standing in for them.
        tests: Arguments of pytest.
    """

    python: str
    torch: tuple[str, ...]
    numpy: str = 'numpy==1.26.4'
    frameworks: tuple[str, ...] = ('timm', 'huggingface_hub')
    compiled: bool = False
    tests: tuple[str, ...] = ALL


STACKS = {
    'oldest': Stack('3.10', ('torch===2.1.2', 'torchvision===0.16.2'), frameworks=OLDEST_FRAMEWORKS, tests=CORE),
    'torch-2.1': Stack('3.10', ('torch===2.1.2', 'torchvision===0.16.2'), compiled=True),
    'torch-2.4': Stack('3.11', ('torch===2.4.1', 'torchvision===0.19.1')),
    'newest': Stack('3.12', ('torch', 'torchvision'), 'numpy'),
    'newest-3.13': Stack('3.13', ('torch', 'torchvision'), 'numpy'),
}
SET_UP = 'make-train'  # the README's own command with PyPI's build of the locked torch, and no compiler


class Failure(Exception):
    """A command failed; the message names it and its log."""


def main() -> None:
    parser = argparse.ArgumentParser(description='Run the tests with other versions of the libraries.')
    parser.add_argument('stacks', nargs='*', metavar='STACK', help=f'{", ".join(STACKS)} or {SET_UP}; default: all')
    parser.add_argument('--cache', type=Path, default=ROOT / 'build' / 'matrix', help='default: build/matrix')
    args = parser.parse_args()
    names = args.stacks or [*STACKS, SET_UP]
    if unknown := set(names) - {*STACKS, SET_UP}:
        parser.error(f'unknown stack: {", ".join(unknown)}')
    rows = []
    for name in names:
        folder = (args.cache / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        print(f'{name} ...', file=sys.stderr, flush=True)
        started = time.time()
        try:
            row = make_train(folder) if name == SET_UP else test(STACKS[name], folder)
        except Failure as failure:
            row = ('', '', '', '', f'**failed**: {failure}')
        rows.append((name, *row, f'{(time.time() - started) / 60:.0f}'))
    print(f'{time.strftime("%Y-%m-%d")}, {os.cpu_count()} cores\n')
    header = ('stack', 'Python', 'torch', 'NumPy', 'operators of MMCV', 'result', 'minutes')
    for line in (header, ['---'] * len(header), *rows):
        print('| ' + ' | '.join(line) + ' |')
    sys.exit(any('failed' in row[-2] for row in rows))


def test(stack: Stack, folder: Path) -> tuple[str, ...]:
    """Build the environment, run its tests, and return its row of the table."""
    python = build(stack, folder)
    if not stack.compiled:
        run([python, '-m', 'mmacmix.mmcv_ext'], folder)  # as it is in this checkout
    return (*versions(python, folder), run_tests(python, stack.tests, folder))


def run_tests(python: Path, tests: tuple[str, ...], folder: Path, root: Path = ROOT) -> str:
    """Run tests of a checkout with an interpreter, and return their numbers."""
    results = folder / 'results.xml'
    results.unlink(missing_ok=True)
    options = ['-q', '-n', '2', '--dist', 'loadfile', '-p', 'no:cacheprovider', f'--junitxml={results}']
    try:
        run([python, '-m', 'pytest', *options, *tests], folder, root)
    except Failure:
        if not results.exists():
            raise
    (suite,) = ElementTree.parse(results).getroot()
    number, skipped, *failed = (int(suite.get(name)) for name in ('tests', 'skipped', 'failures', 'errors'))
    result = f'{number - skipped - sum(failed)} passed, {skipped} skipped'
    if sum(failed):
        first = next(case for case in suite if len(case) and case[0].tag != 'skipped')
        result += f', **{sum(failed)} failed**: {first.get("classname")}.{first.get("name")} and more'
    return result


def versions(python: Path, folder: Path) -> tuple[str, ...]:
    """Versions of Python, torch and NumPy in an environment, and where MMCV's operators come from."""
    show = (
        'import json, platform, numpy, torch; from importlib.util import find_spec; spec = find_spec("mmcv._ext")\n'
        'source = "none" if spec is None else "stand-in" if spec.origin.endswith(".py") else "compiled"\n'
        'print(json.dumps([platform.python_version(), torch.__version__, numpy.__version__, source]))'
    )
    return tuple(json.loads(run([python, '-c', show], folder).splitlines()[-1]))


def build(stack: Stack, folder: Path) -> Path:
    """The interpreter of the stack's environment, which is built if its requirements have changed."""
    setuptools = 'setuptools==69.5.1' if stack.python < '3.12' else 'setuptools<81'  # has pkg_resources
    installs = [(*stack.torch, stack.numpy, setuptools, 'wheel', 'ninja', 'psutil', 'packaging')]
    installs.append(COMPILED if stack.compiled else ('--no-deps', 'mmcv-lite==2.1.0'))
    shared = (*OPENMMLAB, 'addict', 'yapf', 'platformdirs', 'pyyaml', 'rich', *TOOLS)
    installs.append((*stack.torch, stack.numpy, *stack.frameworks, *shared))
    python, ready = folder / 'venv' / 'bin' / 'python', folder / 'ready.json'
    recipe = json.dumps(installs)
    if ready.exists() and ready.read_text() == recipe:
        return python
    ready.unlink(missing_ok=True)
    run([base_interpreter(stack.python), '-m', 'venv', '--clear', folder / 'venv'], folder)
    pip = [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    for requirements in installs:
        run([*pip, *requirements], folder, MMCV_WITH_OPS='1', CFLAGS='-g0 -O1', CXXFLAGS='-g0 -O1')
    # MMEngine requires OpenCV with a GUI, which does not import on servers without libGL.
    run([python, '-m', 'pip', 'uninstall', '--quiet', '--yes', 'opencv-python'], folder)
    run([*pip, '--force-reinstall', '--no-deps', TOOLS[-1]], folder)
    ready.write_text(recipe)
    return python


def make_train(folder: Path) -> tuple[str, ...]:
    """Run `make train` and the tests in a clone, with PyPI's build of the locked torch and no compiler on the PATH."""
    clone, programs = folder / 'clone', folder / 'bin'
    for old in (clone, programs):
        shutil.rmtree(old, ignore_errors=True)
    run(['git', 'clone', '--quiet', ROOT, clone], folder)
    torch = clone / 'requirements' / 'torch.txt'
    torch.write_text(torch.read_text().replace('==', '==='))  # never a local build such as +cpu
    programs.mkdir()
    for place in reversed(os.environ['PATH'].split(os.pathsep)):
        for program in Path(place).glob('*'):
            if not COMPILERS.match(program.name):
                (programs / program.name).unlink(missing_ok=True)
                (programs / program.name).symlink_to(program.absolute())
    python = base_interpreter('3.11')  # an environment could have a torch of its own
    run(['make', 'train', f'PYTHON={python}'], folder, clone, PATH=str(programs))
    results = json.loads((clone / 'work_dirs' / 'shapes' / 'results.json').read_text())
    box, mask = (results[f'coco/{kind}_mAP'] for kind in ('bbox', 'segm'))
    python = clone / '.venv' / 'bin' / 'python'
    found = versions(python, folder)
    if found[-1] != 'stand-in':
        raise Failure(f'the operators of MMCV are {found[-1]}')
    tests = run_tests(python, ALL, folder, clone)
    return (*found, f'{tests}; `make train`: box AP {box:.3f}, mask AP {mask:.3f}')


def base_interpreter(version: str) -> Path:
    """An interpreter that is not that of an environment.

    Raises:
        Failure: This machine has none.
    """
    python = interpreter(version)
    if python is None:
        raise Failure(f'this machine has no Python {version}')
    show = 'import os, sys; print(os.path.join(sys.base_prefix, "bin", os.path.basename(sys.executable)))'
    return Path(subprocess.check_output([python, '-c', show], text=True).strip())


def run(command: list, folder: Path, root: Path = ROOT, **environment: str) -> str:
    """The standard output of a command in a checkout, which the log of the stack keeps.

    Raises:
        Failure: The command failed.
    """
    log = folder / 'log.txt'
    command = list(map(str, command))
    settings = {**os.environ, 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1', **environment}
    done = subprocess.run(command, cwd=root, env=settings, capture_output=True, text=True, check=False)
    with log.open('a') as file:
        file.write(f'\n$ {" ".join(command)}\n{done.stdout}{done.stderr}')
    if done.returncode:
        raise Failure(f'`{" ".join(command[:4])} ...`, see {log}')
    return done.stdout


if __name__ == '__main__':
    main()
