"""The virtual environment that the set-up fills: pip, other commands, and their log."""

import os
import re
import shlex
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NETWORK_ERRORS = (
    'NewConnectionError',
    'ConnectTimeoutError',
    'ReadTimeoutError',
    'NameResolutionError',
    'ProxyError',
    'Temporary failure in name resolution',
    'Network is unreachable',
    'Read timed out',
    'IncompleteRead',
)
# Lines that tell why a command failed, best first: a compiler's, the end of a traceback, any other.
ERRORS = (r'.+\berror: ', r'[\w.]+Error\b', '(?i)(?!warning).*error')


class SetupError(Exception):
    """The message is one sentence: what is missing, and what to do."""


def read(path):
    """The text of a file, empty if it does not exist."""
    if not os.path.exists(path):
        return ''
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, 'w') as file:
        file.write(text)


def output_or_none(command):
    """The standard output of a command, or None if it fails."""
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, universal_newlines=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def release(version):
    """The first two numbers of a version: (2, 13) of 2.13.0+cu130."""
    return tuple(int(part) for part in re.match(r'(\d+)\.(\d+)', version).groups())


class Environment:
    """A virtual environment."""

    def __init__(self, folder):
        self.folder = folder
        self.python = os.path.join(folder, 'bin', 'python')
        self.log = os.path.join(folder, 'install.log')
        self.constraints = os.path.join(folder, 'constraints.txt')

    def ask(self, code):
        """The output of Python code in the environment, or None if it fails."""
        return output_or_none([self.python, '-c', code])

    def pip(self, *arguments, **variables):
        """Run pip install.

        Raises:
            SetupError: It failed.
        """
        if self.call(self.pip_install(*arguments), **variables):
            raise self.failure('pip')

    def pip_install(self, *arguments):
        """The command that installs packages in the versions of the lock."""
        pip = [self.python, '-m', 'pip', 'install', '--retries', '2', '--constraint', self.constraints]
        return [*pip, *arguments]

    def uninstall(self, *packages):
        """Remove packages from the environment; those of its base interpreter stay."""
        self.call([self.python, '-m', 'pip', 'uninstall', '--yes', *packages])

    def call(self, command, **variables):
        """Run a command with its output in the log, and return its exit status."""
        with open(self.log, 'a') as log:
            log.write('\n$ {}\n'.format(' '.join(shlex.quote(word) for word in command)))
            log.flush()
            return subprocess.call(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Neither other pins, as containers set them, nor an installation outside of the environment.
                env=dict(os.environ, PIP_CONSTRAINT='', PIP_USER='0', **variables),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
            )

    def last_output(self):
        """The output of the last command."""
        return read(self.log).rsplit('\n$ ', 1)[-1]

    def network_failed(self):
        """Whether the last command found no package index."""
        text = self.last_output()
        nothing_found = 'No matching distribution' in text or 'ResolutionImpossible' in text
        return nothing_found and any(word in text for word in NETWORK_ERRORS)

    def failure(self, what):
        """The error to raise after the last command has failed."""
        if self.network_failed():
            return SetupError(
                'No package index could be reached: connect to the network, or name an index that can '
                'be reached with PIP_INDEX_URL, and run the same command again.'
            )
        lines = [line.strip() for line in self.last_output().splitlines()]
        for pattern in ERRORS:
            errors = [line for line in lines if re.match(pattern, line)]
            if errors:
                break
        if errors and any(word in errors[-1] for word in NETWORK_ERRORS):
            return SetupError(
                'The connection to the package index broke off: run the same command again, on a slow network with '
                'PIP_DEFAULT_TIMEOUT=120 before it.'
            )
        return SetupError(
            '{} failed{}; the full output is in {}.'.format(
                what, ' (' + errors[0][:200] + ')' if errors else '', os.path.relpath(self.log)
            )
        )
