"""Comparison of configs that were trained with several seeds each."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .charts import saved_axes
from .scalars import read_scalars, steps_and_values
from .tables import markdown_table

TEST_RESULTS = Path('test', 'test_results.json')  # in a run's work directory, once it was tested


class Run(NamedTuple):
    """Scores and cost of one training run."""

    steps: list[int]  # training iterations at which it was evaluated
    scores: list[float]
    seconds: float  # median per iteration
    gpu_memory: int | None = None  # peak, bytes
    test: dict[str, float] | None = None  # scores of the last checkpoint on the test images


def read_run(folder: Path, metric: str) -> Run:
    """Read a run's scores, such as ``coco/segm_mAP``, from its work directory, and those of its test, if it has one.

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
    memory = max(mebibytes) * 2**20 if mebibytes else None
    file = folder / TEST_RESULTS
    test = json.loads(file.read_text()) if file.is_file() else None
    return Run(steps, scores, statistics.median(seconds), memory, test)


def table(runs: dict[str, Sequence[Run]], metric: str, columns: dict[str, dict[str, str]]) -> str:
    """A Markdown table with one row per config: mean and range of its scores over the seeds, and further columns.

    Args:
        runs: Config to its runs, one per seed, evaluated at the same iterations. The last score counts, and that of the
            test if all runs have one.
        metric: Name of the score.
        columns: Further columns: title to config to entry.
    """
    seeds = max(len(each) for each in runs.values())
    tested = all(metric in (run.test or {}) for each in runs.values() for run in each)
    titles = ['config', f'{metric}, mean of {seeds}', 'lowest to highest']
    titles += [f'test {metric}, mean of {seeds}', 'lowest to highest'] if tested else []
    rows = []
    for name, each in runs.items():
        row = [name, *_mean_and_range([run.scores[-1] for run in each])]
        if tested:
            row += _mean_and_range([run.test[metric] for run in each])
        seconds = statistics.median(run.seconds for run in each)
        rows.append([*row, *(column[name] for column in columns.values()), str(each[0].steps[-1]), f'{seconds:.2f}'])
    return markdown_table([*titles, *columns, 'iterations', 's per iteration'], rows)


def scores_of_tests(runs: dict[str, Sequence[Run]]) -> str:
    """A Markdown table with one row per score of the tests, such as those of each class: means over the seeds."""
    tests = {name: [run.test or {} for run in each] for name, each in runs.items()}
    scores = dict.fromkeys(score for each in tests.values() for test in each for score in test)
    rows = []
    for score in scores:
        values = [[test[score] for test in each if score in test] for each in tests.values()]
        rows.append([score, *(f'{statistics.mean(each):.3f}' if each else '' for each in values)])
    return markdown_table(['test score', *tests], rows)


def _mean_and_range(scores: Sequence[float]) -> tuple[str, str]:
    return f'{statistics.mean(scores):.3f}', f'{min(scores):.3f} to {max(scores):.3f}'


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
