"""Configs trained with several seeds each, side by side."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt

from ..errors import UserError
from .scalars import read_scalars


class Run(NamedTuple):
    """What one training run left in its work directory."""

    steps: list[int]  # of its evaluations
    scores: list[float]
    seconds: float  # an iteration, median
    gpu_memory: int | None = None  # bytes, at most


def read_run(folder: Path, metric: str) -> Run:
    """Read the scalars that a run logged.

    Args:
        folder: Its work directory.
        metric: What its evaluations call the score: ``coco/segm_mAP``.

    Raises:
        UserError: There are no scalars, or no evaluation has such a score.
    """
    scalars = read_scalars(folder)
    evaluations = [line for line in scalars.evaluations if metric in line]
    if not evaluations:
        names = ', '.join(scalars.scores) or 'none at all'
        raise UserError(f'no evaluation in {folder} has a score {metric!r}, but {names}')
    mebibytes = [line['memory'] for line in scalars.training if 'memory' in line]
    return Run(
        [line['step'] for line in evaluations],
        [line[metric] for line in evaluations],
        statistics.median(line['time'] for line in scalars.training),
        max(mebibytes) * 2**20 if mebibytes else None,
    )


def table(runs: dict[str, Sequence[Run]], metric: str, columns: dict[str, dict[str, str]]) -> str:
    """A Markdown table, a row a config: mean and spread of the last score over the seeds, and further columns.

    Args:
        runs: Each config's runs, one a seed, with evaluations at the same steps.
        metric: Name of the score.
        columns: Further columns: title to each config's entry.
    """
    seeds = max(len(each) for each in runs.values())
    titles = ['config', f'{metric}, mean of {seeds}', 'lowest to highest', *columns, 'iterations', 's an iteration']
    rows = []
    for name, each in runs.items():
        scores = [run.scores[-1] for run in each]
        rows.append(
            [
                name,
                f'{statistics.mean(scores):.3f}',
                f'{min(scores):.3f} to {max(scores):.3f}',
                *(entries[name] for entries in columns.values()),
                str(each[0].steps[-1]),
                f'{statistics.median(run.seconds for run in each):.2f}',
            ]
        )
    return '\n'.join(f'| {" | ".join(row)} |' for row in [titles, ['---'] * len(titles), *rows]) + '\n'


def draw_comparison(runs: dict[str, Sequence[Run]], metric: str, path: str | Path) -> None:
    """Draw one PNG: every seed's last score by config, or, where runs were evaluated more than once, mean and range
    over the training steps.

    Args:
        runs: Each config's runs, one a seed, with evaluations at the same steps.
        metric: Name of the score.
        path: The PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(runs) + 1.5) if _last_only(runs) else (8, 5))
    if _last_only(runs):
        names = list(runs)[::-1]
        for height, name in enumerate(names):
            scores = [run.scores[-1] for run in runs[name]]
            axes.barh(height, statistics.mean(scores), color='tab:blue', alpha=0.35)
            axes.plot(scores, [height] * len(scores), 'o', color='tab:blue')
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(f'{metric}: mean, and a dot a seed')
    else:
        for name, each in runs.items():
            scores = list(zip(*(run.scores for run in each), strict=True))
            line = axes.plot(each[0].steps, [statistics.mean(step) for step in scores], marker='o', label=name)[0]
            bounds = [min(step) for step in scores], [max(step) for step in scores]
            axes.fill_between(each[0].steps, *bounds, color=line.get_color(), alpha=0.2)
        axes.set_xlabel('training iterations')
        axes.set_ylabel(f'{metric}: mean and range over seeds')
        axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches='tight')
    plt.close(figure)


def _last_only(runs: dict[str, Sequence[Run]]) -> bool:
    return all(len(run.steps) == 1 for each in runs.values() for run in each)
