#!/usr/bin/env python
"""Translate a published checkpoint to the names of this package.

python tools/convert_checkpoint.py acmix-resnet published.pth converted.pth
"""

import os
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import torch

from mmacmix.checkpoints import SOURCES, convert
from mmacmix.environment import load_checkpoint, state_dict_of
from mmacmix.running import UserError, run


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Translate a published checkpoint to the names of this package.')
    parser.add_argument('source', choices=SOURCES, help='whose checkpoint it is')
    parser.add_argument('input', metavar='in', help='the checkpoint')
    parser.add_argument('output', metavar='out', help='file to write')
    args = parser.parse_args(argv)
    try:
        original = state_dict_of(load_checkpoint(args.input), args.input)
        converted = convert(original, args.source)
        _save(dict(state_dict=converted, meta=dict(source=args.source)), Path(args.output))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    print(
        f'{args.output}: {len(converted)} of {len(original)} tensors of {args.input}, '
        f'{sum(tensor.numel() for tensor in converted.values()):,} numbers'
    )
    if len(converted) < len(original):
        print('Left out: the classifier, which the backbone does not have.')


def _save(checkpoint: dict, path: Path) -> None:
    """Write a file whole or not at all."""
    if not path.parent.is_dir():
        raise UserError(f'there is no folder {path.parent} to write {path.name} to')
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', delete=False) as file:
        try:
            torch.save(checkpoint, file)
            file.close()
            os.chmod(file.name, 0o666 & ~_umask())  # a temporary file is its owner's alone
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


if __name__ == '__main__':
    run(main)
