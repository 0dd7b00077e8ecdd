#!/usr/bin/env python
"""Train configs with several seeds each and compare their scores in a table and a chart.

python tools/compare.py configs/ablation/*.py --work-dir work_dirs/ablation

Started again after an interruption, it continues from the last checkpoint. With --test, the last checkpoint of each run
is also evaluated on the test images.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from mmengine.config import Config

from mmacmix.cli import command_line, load_configs, positive_int, run
from mmacmix.engine import latest_checkpoint
from mmacmix.errors import UserError
from mmacmix.inference import build_model
from mmacmix.reporting.comparison import TEST_RESULTS, Run, draw_comparison, read_run, scores_of_tests, table
from mmacmix.reporting.complexity import Part, model_complexity

TRAIN, TEST, LAUNCH = (Path(__file__).with_name(name) for name in ('train.py', 'test.py', 'launch.py'))


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
        '--test', action='store_true', help='also evaluate the last checkpoint of each run on the test images'
    )
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
    if args.test:
        test_all(jobs, args.jobs, args.cfg_options)
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
    threads = threads_of(at_a_time * processes)
    in_turn(waiting, at_a_time, lambda cfg, folder: train(cfg, folder, processes, threads, options))


def test_all(jobs: list[tuple[Config, Path]], at_a_time: int, options: list[str]) -> None:
    """Evaluate the last checkpoint of each run on the test images, unless that has been done."""
    waiting = [job for job in jobs if not (job[1] / TEST_RESULTS).is_file()]
    threads = threads_of(at_a_time)
    in_turn(waiting, at_a_time, lambda cfg, folder: test(cfg, folder, threads, options))


def threads_of(processes: int) -> str:
    return str(max(1, len(os.sched_getaffinity(0)) // processes))


def in_turn(jobs: list[tuple[Config, Path]], at_a_time: int, work: Callable[[Config, Path], None]) -> None:
    """Do the work for all jobs, a number of them at a time, and print the time left; an error cancels the others."""
    start = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as pool:
        futures = {pool.submit(work, *job): job[1] for job in jobs}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                left = (time.monotonic() - start) / done * (len(jobs) - done)
                print(f'{done}/{len(jobs)} {futures[future]}, {left / 60:.0f} min left', flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def train(cfg: Config, folder: Path, processes: int, threads: str, options: list[str]) -> None:
    """Train in separate processes, from the last checkpoint if there is one, and record the peak memory of one."""
    folder.mkdir(parents=True, exist_ok=True)
    cost = folder / 'cost.json'
    cost.write_text(json.dumps(dict(config=fingerprint(cfg))))
    command = [sys.executable]
    if processes > 1:
        command += [LAUNCH, '--standalone', f'--nproc_per_node={processes}']
    command += [TRAIN, cfg.filename, '--work-dir', folder, '--resume']
    command += ['--launcher', 'pytorch' if processes > 1 else 'none']
    task = f'training {cfg.filename} with {folder.name.replace("seed", "seed ")}'
    memory = execute([*command, *overrides(folder, options)], threads, folder / 'train.log', task)
    cost.write_text(json.dumps(dict(config=fingerprint(cfg), peak_memory=memory)))


def test(cfg: Config, folder: Path, threads: str, options: list[str]) -> None:
    checkpoint = latest_checkpoint(folder)
    if not checkpoint:
        raise UserError(f'{folder} holds a finished run, but no checkpoint to test')
    command = [sys.executable, TEST, cfg.filename, checkpoint, '--work-dir', (folder / TEST_RESULTS).parent]
    execute([*command, *overrides(folder, options)], threads, folder / 'test.log', f'testing {folder}')


def overrides(folder: Path, options: list[str]) -> list[str]:
    seed = folder.name.removeprefix('seed')
    return ['--cfg-options', f'randomness.seed={seed}', *(each.replace('{seed}', seed) for each in options)]


def execute(command: list[str | Path], threads: str, log: Path, task: str) -> int:
    """Run a tool, whose output goes into a log, and return the peak memory of its process in bytes."""
    with log.open('a') as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | dict(OMP_NUM_THREADS=threads)
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        last = log.read_text().strip().splitlines()[-1:]
        raise UserError(f'{task} failed; {log} ends with: {"".join(last)}')
    return usage.ru_maxrss * 1024


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
    if any(run.test for each in runs.values() for run in each):
        (work_dir / 'test.md').write_text(scores_of_tests(runs))
    print(f'The table is in {work_dir / "table.md"}, the chart in {work_dir / "chart.png"}.')


def backbone_size(cfg: Config) -> Part:
    """Size of the backbone for one image of 128 x 128 pixels, the size of the generated images."""
    backbone = build_model(cfg).backbone
    backbone.eval()
    return sum(model_complexity(backbone, lambda: backbone(torch.zeros(1, 3, 128, 128))).values(), start=Part(0, 0))


if __name__ == '__main__':
    run(main)
