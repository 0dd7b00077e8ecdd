#!/usr/bin/env python
"""Train a detector or a segmentor.

python tools/train.py configs/maskrcnn_acmix.py
tools/dist_train.sh configs/maskrcnn_acmix.py 8
"""

import openmp  # noqa: F401

import logging
from argparse import ArgumentParser

import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from mmacmix.cli import add_common_arguments, command_line, load_config, run
from mmacmix.engine import build_runner, resume
from mmacmix.errors import UserError
from mmacmix.reporting.report import write_report


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Train a detector or a segmentor.')
    add_common_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='use automatic mixed precision, which needs a GPU')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size, using auto_scale_lr'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='resume from a checkpoint; default: the latest one in the work directory',
    )
    args = parser.parse_args(argv)

    cfg = load_config(args)
    if args.amp:
        if not torch.cuda.is_available():
            raise UserError('--amp needs a GPU, and torch finds none')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size, which {args.config} does not set')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    asked_to_resume = cfg.get('resume', False)
    if asked_to_resume:
        resume(cfg)

    runner = build_runner(cfg, ['train_dataloader', 'val_dataloader'])
    if asked_to_resume and not cfg.load_from:
        print_log(f'{cfg.work_dir} holds no checkpoint: training starts from the beginning', 'current', logging.WARNING)
    runner.train()
    if is_main_process():
        try:
            print_log(f'The report of this run is {write_report(runner.work_dir)}', 'current')
        except Exception as error:  # whatever it is, the training has succeeded
            print_log(f'The report cannot be written: {error}', 'current', logging.WARNING)


if __name__ == '__main__':
    run(main)
