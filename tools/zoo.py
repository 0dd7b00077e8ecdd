#!/usr/bin/env python
"""Write the tables of the model zoo into the READMEs of configs/, and the metafiles, from configs/zoo.json.

python tools/zoo.py                      # write them, after counting what is new
python tools/zoo.py --count              # count all parameters and multiply-adds again
python tools/zoo.py --measure [CONFIG]   # measure training steps first, of all configs or these, on a quiet machine
"""

import openmp  # noqa: F401

import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from benchmark import cpu
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmacmix.cli import command_line, run
from mmacmix.datasets import innermost
from mmacmix.errors import UserError
from mmacmix.inference import build_model
from mmacmix.reporting.complexity import Part, model_complexity
from mmacmix.reporting.tables import markdown_table

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
STORE = CONFIGS / 'zoo.json'
MARK = '<!-- The rest is written by tools/zoo.py. -->'
DATA = {'coco': 'COCO 2017', 'ade20k': 'ADE20K', 'in1k': 'ImageNet-1k'}
COUNTED = ('size', 'parameters', 'macs')
STEPS = 3


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Write the READMEs of configs/, and the metafiles, from configs/zoo.json.')
    parser.add_argument('--count', action='store_true', help='count parameters and multiply-adds first')
    parser.add_argument(
        '--measure', nargs='*', metavar='CONFIG', help='measure training steps, of all configs or of these, first'
    )
    parser.add_argument('--step', metavar='CONFIG', help='measure one config, and print the result as JSON')
    args = parser.parse_args(argv)
    if args.step:
        print(json.dumps(training_step(Path(args.step))))
        return
    store = json.loads(STORE.read_text())
    paths = {str(path.relative_to(CONFIGS)): path for path in config_files()}
    models = {name: store['models'].get(name, {}) for name in paths}
    machine = store['machine']
    for name, path in paths.items():
        if args.count or not models[name]:
            models[name] |= count(path)
    if args.measure is not None:
        names = {path: name for name, path in paths.items()}
        for each in args.measure:
            if Path(each).resolve() not in names:
                raise UserError(f'{each} is not a config of the zoo')
        chosen = [names[Path(each).resolve()] for each in args.measure] or list(paths)
        if machine != (machine := cpu()):
            models = {name: {key: facts[key] for key in COUNTED} for name, facts in models.items()}
        for name in chosen:
            command = [sys.executable, __file__, '--step', paths[name]]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            models[name] |= json.loads(done.stdout.splitlines()[-1])
            print(name, models[name], flush=True)
            save(models, machine)
    save(models, machine)
    for path, text in written(models, machine).items():
        path.write_text(text)


def save(models: dict[str, dict], machine: str | None) -> None:
    STORE.write_text(json.dumps(dict(machine=machine, models=models), indent=1) + '\n')


def config_files() -> list[Path]:
    return sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')


def image_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the images: of training crops for segmentation, of evaluation for detection."""
    if crop_size := cfg.model.get('data_preprocessor', {}).get('size'):
        return tuple(crop_size)
    scales = [step.scale for step in cfg.val_dataloader.dataset.pipeline if 'scale' in step]
    if not scales or isinstance(scales[0], int):
        return 224, 224
    width, height = scales[0]
    return height, width


def count(path: Path) -> dict:
    """Size of the images, and parameters and multiply-adds of the whole network for one of them."""
    cfg, model = load(path)
    size = image_size(cfg)
    image, samples = batch(cfg, size, 1)
    model.eval()

    def predict() -> None:
        if cfg.default_scope == 'mmseg':  # one call for all decode heads
            model.decode_head.predict(model.extract_feat(image), [dict(ori_shape=size, img_shape=size)], model.test_cfg)
        else:
            model(image, samples, mode='tensor')

    part = sum(model_complexity(model, predict).values(), start=Part(0, 0))
    return dict(size=size, parameters=part.parameters, macs=part.macs)


def load(path: Path) -> tuple[Config, nn.Module]:
    """A config and its network."""
    cfg = Config.fromfile(path)
    return cfg, Classifier(cfg.model) if cfg.default_scope == 'mmpretrain' else build_model(cfg)


class Classifier(nn.Module):
    """An ImageNet classifier, without MMPretrain, which needs torchvision."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(cfg.backbone, init_cfg=None))
        self.head = nn.Linear(cfg.head.in_channels, cfg.head.num_classes)

    def forward(self, image: Tensor, labels: Tensor, mode: str) -> Tensor | dict[str, Tensor]:
        scores = self.head(self.backbone(image)[-1].mean((2, 3)))
        return dict(loss=F.cross_entropy(scores, labels)) if mode == 'loss' else scores

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor]:
        return (losses['loss'],)


def batch(cfg: Config, size: tuple[int, int], images: int) -> tuple[Tensor, list | Tensor]:
    """Random images and their annotations."""
    shape = (3, *size)
    torch.manual_seed(0)
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        (dataset,) = innermost(cfg.train_dataloader.dataset)
        with_mask = any(step.get('with_mask') for step in dataset.pipeline)
        samples = demo_mm_inputs(images, [shape] * images, num_items=[10] * images, num_classes=2, with_mask=with_mask)
        samples = samples['data_samples']
        for sample in samples:
            sample.gt_instances.labels.zero_()
            sample.set_metainfo(dict(batch_input_shape=size, pad_shape=size))
    elif cfg.default_scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = [SegDataSample(metainfo=dict(ori_shape=size, img_shape=size)) for _ in range(images)]
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.randint(cfg.model.decode_head.num_classes, (1, *size)))
    else:
        samples = torch.zeros(images, dtype=torch.long)
    return torch.rand(images, *shape), samples


def training_step(path: Path) -> dict:
    """Median time in seconds, and peak memory of the process in bytes, of forward, loss and backward.

    The batch is one image. For segmentation it is two: some heads normalise a single pooled pixel over the batch.
    """
    cfg, model = load(path)
    images = 2 if cfg.default_scope == 'mmseg' else 1
    image, samples = batch(cfg, image_size(cfg), images)
    model.train()
    times = []
    for _ in range(STEPS + 1):  # the first one is slower
        annotations = copy.deepcopy(samples)  # RTMDet-Ins changes them
        start = time.perf_counter()
        model.parse_losses(model(image, annotations, mode='loss'))[0].backward()
        times.append(time.perf_counter() - start)
        model.zero_grad()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(images=images, seconds=statistics.median(times[1:]), memory=memory)


def written(models: dict[str, dict], machine: str | None) -> dict[Path, str]:
    """The content of all READMEs and metafiles."""
    folders: dict[str, dict[str, dict]] = {}
    for name, facts in models.items():
        folders.setdefault(name.split('/')[0], {})[name] = facts
    texts = {}
    for folder, members in folders.items():
        readme = CONFIGS / folder / 'README.md'
        texts[readme] = f'{readme.read_text().partition(MARK)[0]}{MARK}\n\n{readme_table(members, machine)}'
        if (metafile := CONFIGS / folder / 'metafile.yml').is_file():
            texts[metafile] = metadata(members, metafile.read_text().splitlines()[0])
    return texts


def readme_table(models: dict[str, dict], machine: str | None) -> str:
    titles = ['config', 'image', 'parameters (M)', 'multiply-adds (G)']
    text = 'Parameters and multiply-adds are those of the whole network, for one image.'
    measured = [facts['images'] for facts in models.values() if 'seconds' in facts]
    if measured:
        titles += ['training step (s)', 'memory (GiB)']
        batch = 'one image' if measured[0] == 1 else 'two images'
        text += (
            f' A training step is forward, loss and backward\nof {batch} in float32, and memory the peak of its '
            f'process: `tools/zoo.py --measure`, {machine}.'
        )
    rows = []
    for name, facts in models.items():
        row = [
            f'[`{Path(name).stem}`]({Path(name).name})',
            '{}x{}'.format(*facts['size']),
            f'{facts["parameters"] / 1e6:.2f}',
            f'{facts["macs"] / 1e9:.2f}',
        ]
        if measured:
            row += [f'{facts["seconds"]:.2f}', f'{facts["memory"] / 2**30:.1f}'] if 'seconds' in facts else ['', '']
        rows.append(row)
    return f'{markdown_table(titles, rows)}\n{text}\n'


def metadata(models: dict[str, dict], comment: str) -> str:
    """A metafile, with its first line as it was."""
    entries = [
        {
            'Name': Path(name).stem,
            'In Collection': next(
                (each for each in ('X-volution', 'LESA') if each.lower().replace('-', '') in name), 'ACmix'
            ),
            'Config': f'configs/{name}',
            'Metadata': {
                'Architecture': architecture(CONFIGS / name),
                'FLOPs': facts['macs'],
                'Parameters': facts['parameters'],
                'Training Data': next(data for key, data in DATA.items() if key in name),
            },
        }
        for name, facts in models.items()
    ]
    return f'{comment}\n{yaml.safe_dump(dict(Models=entries), sort_keys=False)}'


def architecture(path: Path) -> list[str]:
    """The types of detector or segmentor, backbone, neck and head, and of layers in them."""
    model = Config.fromfile(path).model
    types = [model.type]
    for name in ('backbone', 'neck', 'bbox_head', 'panoptic_head', 'decode_head', 'head'):
        part = model.get(name) or []
        for each in part if isinstance(part, list) else [part]:
            types.append(each.get('network', each).type)
            if 'layer' in each:
                types.append(each.layer.type)
    return list(dict.fromkeys(types))


if __name__ == '__main__':
    run(main)
