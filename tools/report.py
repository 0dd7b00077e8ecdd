#!/usr/bin/env python
"""Write a one-page report of a training run: curves, scores, gallery, path weights. tools/train.py ends by doing this.

python tools/report.py work_dirs/maskrcnn_acmix
"""

from argparse import ArgumentParser

from mmacmix.cli import command_line, run
from mmacmix.reporting.report import write_report


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Write a one-page report of a training run.')
    parser.add_argument('work_dir', help='work directory of tools/train.py')
    args = parser.parse_args(argv)
    print(f'The report is in {write_report(args.work_dir)}')


if __name__ == '__main__':
    run(main)
