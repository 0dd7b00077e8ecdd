#!/usr/bin/env python
"""Evaluate a checkpoint of a detector or a segmentor, or an exported file in onnxruntime.

python tools/test.py configs/maskrcnn_acmix.py work_dirs/maskrcnn_acmix/epoch_12.pth
python tools/test.py configs/maskrcnn_acmix.py maskrcnn_acmix.onnx
"""

import openmp  # noqa: F401

from argparse import ArgumentParser
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from torch import nn

from mmacmix.cli import add_common_arguments, command_line, load_config, run
from mmacmix.datasets import innermost
from mmacmix.deploy import fuse
from mmacmix.deploy.exported_model import ExportedModel
from mmacmix.deploy.exporter import FORMATS
from mmacmix.engine import build_runner, unwrapped
from mmacmix.engine.runner import evaluators_of
from mmacmix.errors import UserError
from mmacmix.layers import MixingLayer


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Evaluate a checkpoint or an exported file of a detector or a segmentor.')
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file, or an .onnx file of tools/export.py')
    parser.add_argument(
        '--out', help='output for the predictions: a .pkl file (detection) or a folder of PNG maps (segmentation)'
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='folder in the work directory for images with the predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show displays an image; default: 2')
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation')
    parser.add_argument('--fuse', action='store_true', help='merge layers for faster inference: mmacmix.deploy.fuse')
    args = parser.parse_args(argv)

    exported = ExportedModel(args.checkpoint) if args.checkpoint.endswith(FORMATS['onnx']) else None
    if exported and (args.fuse or args.tta):
        parser.error('--fuse and --tta are for checkpoints, not for exported files')
    cfg = load_config(args)
    segmentation = cfg.get('default_scope') == 'mmseg'
    if args.show or args.show_dir:
        _draw(cfg, args.show, args.show_dir, args.wait_time, segmentation)
    if args.out:
        _write_predictions(cfg, args.out, segmentation)
    if args.tta:
        _augment(cfg, segmentation)
    cfg.load_from, cfg.resume = None if exported else args.checkpoint, False
    runner = build_runner(cfg, ['test_dataloader'])
    runner.load_or_resume()
    if exported:
        runner.model = exported
    if args.fuse:
        _fuse(unwrapped(runner.model))
    runner.test()


def _fuse(model: nn.Module) -> None:
    layers = [module for module in model.modules() if isinstance(module, MixingLayer)]
    left = set(fuse(model).modules())
    merged = sum(layer not in left for layer in layers)
    print_log(f'--fuse: {merged} of {len(layers)} layers of mmacmix are merged', 'current')


def _draw(cfg: Config, show: bool, folder: str | None, seconds: float, segmentation: bool) -> None:
    hook = cfg.get('default_hooks', {}).get('visualization')
    if not hook:
        raise UserError('--show and --show-dir need default_hooks.visualization, which the config does not set')
    hook.update(draw=True, show=show, wait_time=seconds)
    if segmentation:
        hook.interval = 1  # MMSegmentation's hook draws every 50th image by default
        if folder:
            cfg.visualizer.save_dir = str(Path(cfg.work_dir) / folder)
    elif folder:
        hook.test_out_dir = folder


def _write_predictions(cfg: Config, out: str, segmentation: bool) -> None:
    evaluators = evaluators_of(cfg, 'test_evaluator')
    if segmentation:
        for evaluator in evaluators:
            evaluator.update(output_dir=out)
    elif out.endswith(('.pkl', '.pickle')):
        cfg.test_evaluator = [*evaluators, dict(type='DumpDetResults', out_file_path=out)]
    else:
        raise UserError(f'--out must be a .pkl file for a detector, got {out}')


def _augment(cfg: Config, segmentation: bool) -> None:
    """Use the config's tta_model and tta_pipeline, by default horizontal flips for a box detector."""
    datasets = list(innermost(cfg.test_dataloader.dataset))
    if not segmentation:
        if (cfg.model.get('roi_head') or {}).get('mask_head') and 'tta_model' not in cfg:
            raise UserError('--tta supports only boxes in MMDetection, but this model also predicts masks')
        cfg.setdefault(
            'tta_model',
            ConfigDict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
        )
        *steps, pack = datasets[0].pipeline
        keys = pack.get('meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        pack = ConfigDict(pack, meta_keys=(*keys, 'flip', 'flip_direction'))
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        cfg.setdefault('tta_pipeline', [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])])
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise UserError('--tta needs tta_model and tta_pipeline, which the config does not set')
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


if __name__ == '__main__':
    run(main)
