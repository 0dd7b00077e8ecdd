"""Comparison of configs that were trained with several seeds each."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .charts import saved_axes
from .scalars import read_scalars, steps_and_values
from .tables import markdown_table


class Run(NamedTuple):
    """Scores and cost of one training run."""

    steps: list[int]  # training iterations at which it was evaluated
    scores: list[float]
    seconds: float  # median per iteration
    gpu_memory: int | None = None  # peak, bytes


def read_run(folder: Path, metric: str) -> Run:
    """Read a run's scores, such as ``coco/segm_mAP``, from its work directory.

    Raises:
        UserError: There are no scalars, or no evaluation has such a score.
    """
    scalars = read_scalars(folder)
    steps, scores = steps_and_values(scalars.evaluations, metric)
    if not steps:
        names = ', '.join(scalars.scores) or 'none'
        raise UserError(f'no evaluation in {folder} has a score {metric!r}; available: {names}')
    _, seconds = steps_and_values(scalars.training, 'time')
    _, mebibytes = steps_and_values(scalars.training, 'memory')
    return Run(steps, scores, statistics.median(seconds), max(mebibytes) * 2**20 if mebibytes else None)


def table(runs: dict[str, Sequence[Run]], metric: str, columns: dict[str, dict[str, str]]) -> str:
    """A Markdown table with one row per config: mean and range of the last score over the seeds, and further columns.

    Args:
        runs: Config to its runs, one per seed, evaluated at the same iterations.
        metric: Name of the score.
        columns: Further columns: title to config to entry.
    """
    seeds = max(len(each) for each in runs.values())
    titles = ['config', f'{metric}, mean of {seeds}', 'lowest to highest', *columns, 'iterations', 's per iteration']
    rows = []
    for name, each in runs.items():
        scores = [run.scores[-1] for run in each]
        mean, spread = f'{statistics.mean(scores):.3f}', f'{min(scores):.3f} to {max(scores):.3f}'
        seconds = statistics.median(run.seconds for run in each)
        entries = [column[name] for column in columns.values()]
        rows.append([name, mean, spread, *entries, str(each[0].steps[-1]), f'{seconds:.2f}'])
    return markdown_table(titles, rows)


def draw_comparison(runs: dict[str, Sequence[Run]], metric: str, path: str | Path) -> None:
    """Draw mean and range of the scores over the training iterations, or all scores if each run has only one."""
    single = all(len(run.steps) == 1 for each in runs.values() for run in each)
    with saved_axes(path, (8, 0.6 * len(runs) + 1.5) if single else (8, 5)) as ((axes,),):
        for name, each in runs.items():
            scores = list(zip(*(run.scores for run in each), strict=True))
            means = [statistics.mean(step) for step in scores]
            if single:
                axes.barh(name, means, color='tab:blue', alpha=0.35)
                axes.plot(scores[0], [name] * len(each), 'o', color='tab:blue')
            else:
                (line,) = axes.plot(each[0].steps, means, marker='o', label=name)
                lowest, highest = [min(step) for step in scores], [max(step) for step in scores]
                axes.fill_between(each[0].steps, lowest, highest, color=line.get_color(), alpha=0.2)
        if single:
            axes.set_xlabel(f'{metric}: mean (bar) and each seed (dots)')
            axes.invert_yaxis()
        else:
            axes.set(xlabel='training iterations', ylabel=f'{metric}: mean and range over seeds')
            axes.legend()
        axes.grid(alpha=0.3)
