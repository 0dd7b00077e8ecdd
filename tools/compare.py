#!/usr/bin/env python
"""Train configs with several seeds each and compare their scores in a table and a chart.

python tools/compare.py configs/ablation/*.py --work-dir work_dirs/ablation

Started again after an interruption, it continues from the last checkpoint.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from mmengine.config import Config

from mmacmix.cli import command_line, load_configs, positive_int, run
from mmacmix.errors import UserError
from mmacmix.inference import build_model
from mmacmix.reporting.comparison import Run, draw_comparison, read_run, table
from mmacmix.reporting.complexity import Part, model_complexity

TRAIN, LAUNCH = (Path(__file__).with_name(name) for name in ('train.py', 'launch.py'))


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description='Train configs with several seeds each and compare their scores.')
    parser.add_argument('configs', nargs='+', help='config files, listed by name in the table')
    parser.add_argument('--seeds', type=positive_int, default=3, help='runs per config; default: 3')
    parser.add_argument('--metric', default='coco/segm_mAP', help='score to compare; default: coco/segm_mAP')
    parser.add_argument('--work-dir', type=Path, default='work_dirs/compare', help='default: work_dirs/compare')
    parser.add_argument(
        '--jobs', type=positive_int, default=1, help='parallel runs, which share the CPU cores; default: 1'
    )
    text = 'processes of each run, which share its CPU cores; default: 1'
    parser.add_argument('--processes', type=positive_int, default=1, help=text)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='settings that override all configs, where {seed} stands for the seed of a run',
    )
    args = parser.parse_args(argv)
    configs = load_configs(args.configs, args.cfg_options)
    folders = {name: [args.work_dir / name / f'seed{seed}' for seed in range(args.seeds)] for name in configs}
    jobs = [(configs[name], folder) for name in configs for folder in folders[name]]
    train_all(jobs, args.jobs, args.processes, args.cfg_options)
    runs = {name: [read_run(folder, args.metric) for folder in each] for name, each in folders.items()}
    report(runs, configs, folders, args.metric, args.work_dir)


def fingerprint(cfg: Config) -> str:
    return hashlib.sha256(cfg.pretty_text.encode()).hexdigest()


def is_finished(cfg: Config, folder: Path) -> bool:
    """Whether a folder holds a finished run of this config; raises an error if it holds one of another config."""
    cost = folder / 'cost.json'
    if not cost.is_file():
        return False
    run = json.loads(cost.read_text())
    if run['config'] != fingerprint(cfg):
        raise UserError(f'{folder} holds a run of another config or with other options: choose another --work-dir')
    return 'peak_memory' in run


def train_all(jobs: list[tuple[Config, Path]], at_a_time: int, processes: int, options: list[str]) -> None:
    """Train each config in its folder, unless the folder holds a finished run."""
    waiting = [job for job in jobs if not is_finished(*job)]
    if len(waiting) < len(jobs):
        print(f'{len(jobs) - len(waiting)} of {len(jobs)} runs have been finished before')
    threads = str(max(1, len(os.sched_getaffinity(0)) // (at_a_time * processes)))
    start = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as pool:
        futures = [pool.submit(train, *job, processes, threads, options) for job in waiting]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                folder = future.result()
                left = (time.monotonic() - start) / done * (len(waiting) - done)
                print(f'{done}/{len(waiting)} {folder}, {left / 60:.0f} min left', flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def train(cfg: Config, folder: Path, processes: int, threads: str, options: list[str]) -> Path:
    """Train in separate processes, from the last checkpoint if there is one, and record the peak memory of one."""
    folder.mkdir(parents=True, exist_ok=True)
    log, cost = folder / 'train.log', folder / 'cost.json'
    cost.write_text(json.dumps(dict(config=fingerprint(cfg))))
    seed = folder.name.removeprefix('seed')
    command = [sys.executable]
    if processes > 1:
        command += [LAUNCH, '--standalone', f'--nproc_per_node={processes}']
    command += [TRAIN, cfg.filename, '--work-dir', folder, '--resume']
    command += ['--launcher', 'pytorch' if processes > 1 else 'none']
    command += ['--cfg-options', f'randomness.seed={seed}', *(each.replace('{seed}', seed) for each in options)]
    with log.open('a') as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | dict(OMP_NUM_THREADS=threads)
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        last = log.read_text().strip().splitlines()[-1:]
        raise UserError(f'training {cfg.filename} with seed {seed} failed; {log} ends with: {"".join(last)}')
    cost.write_text(json.dumps(dict(config=fingerprint(cfg), peak_memory=usage.ru_maxrss * 1024)))
    return folder


def report(
    runs: dict[str, list[Run]], configs: dict[str, Config], folders: dict[str, list[Path]], metric: str, work_dir: Path
) -> None:
    """Write the table and the chart."""
    sizes = {name: backbone_size(cfg) for name, cfg in configs.items()}
    memory = {  # GPU memory if a GPU was used, otherwise memory of the process
        name: max(
            run.gpu_memory or json.loads((folder / 'cost.json').read_text())['peak_memory']
            for run, folder in zip(runs[name], each, strict=True)
        )
        for name, each in folders.items()
    }
    columns = {
        'parameters of the backbone (M)': {name: f'{size.parameters / 1e6:.2f}' for name, size in sizes.items()},
        'multiply-adds at 128x128 (G)': {name: f'{size.macs / 1e9:.3f}' for name, size in sizes.items()},
        'peak memory (GiB)': {name: f'{number / 2**30:.2f}' for name, number in memory.items()},
    }
    text = table(runs, metric, columns)
    (work_dir / 'table.md').write_text(text)
    draw_comparison(runs, metric, work_dir / 'chart.png')
    print(text)
    print(f'The table is in {work_dir / "table.md"}, the chart in {work_dir / "chart.png"}.')


def backbone_size(cfg: Config) -> Part:
    """Size of the backbone for one image of 128 x 128 pixels, the size of the generated images."""
    backbone = build_model(cfg).backbone
    backbone.eval()
    return sum(model_complexity(backbone, lambda: backbone(torch.zeros(1, 3, 128, 128))).values(), start=Part(0, 0))


if __name__ == '__main__':
    run(main)
