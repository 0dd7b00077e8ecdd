#!/usr/bin/env python
"""Write one page about a training run: curves, scores, gallery, path weights. tools/train.py does so in the end.

python tools/report.py work_dirs/maskrcnn_acmix
"""

from argparse import ArgumentParser

from mmacmix.errors import UserError
from mmacmix.reporting.report import write_report
from mmacmix.running import run


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Write one page about a training run.')
    parser.add_argument('work_dir', help='what tools/train.py wrote to')
    args = parser.parse_args(argv)
    try:
        print(f'The report is {write_report(args.work_dir)}')
    except ValueError as error:
        raise UserError(str(error)) from error


if __name__ == '__main__':
    run(main)
