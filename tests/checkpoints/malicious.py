"""Checkpoints of all formats that run code when they are loaded carelessly: the code creates a file, the marker."""

import io
import os
import pickle
import shlex
import tarfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import nn

CODE = 'it holds Python objects, which could run code, beside its tensors'
REASONS = {
    'zip': CODE,
    'old': CODE,
    'pickle': CODE,
    'torchscript': 'it is a TorchScript archive, which is a program',
    'tar': 'it is a tar archive, the format of torch before 0.1.10',
}


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Program(nn.Module):
    """Creates a file when its state is restored."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self):
        return self.path

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        created = torch.from_file(self.path, shared=True, size=1, dtype=torch.uint8)
        self.training = created.numel() > 1  # uses the result, or else the call would be removed


def write_malicious(form: str, checkpoint: dict, path: Path, marker: Path) -> None:
    """Write a checkpoint with additional code, in a form of ``REASONS``."""
    checkpoint = checkpoint | dict(extra=Malicious(f'touch {shlex.quote(str(marker))}'))
    if form == 'torchscript':
        torch.jit.save(torch.jit.script(Program(str(marker))), path)
        marker.unlink(missing_ok=True)
    elif form == 'tar':
        with tarfile.open(path, 'w') as tar:
            for name in ('storages', 'tensors', 'pickle'):
                content = pickle.dumps(checkpoint['extra'])
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    elif form == 'pickle':
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=form == 'zip')


def load_carelessly(form: str, path: Path) -> None:
    """Load a malicious file so that its code runs."""
    os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
    load = pickle.load if form == 'pickle' else partial(torch.load, weights_only=False)
    with path.open('rb') as file, suppress(Exception):  # the tar archive is no complete checkpoint
        load(file)
