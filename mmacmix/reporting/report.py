"""A page about a training run."""

import base64
import csv
import io
import json
import math
import re
import statistics
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from ..errors import UserError
from .charts import draw_bars, draw_lines, draw_path_weights, draw_path_weights_over_time
from .path_weights import logged_path_weights
from .scalars import Scalars, read_scalars, steps_and_values

_MAIN_SCORE = re.compile(r'(mAP|mIoU|mAcc|aAcc|mDice|mFscore|accuracy/top\d|single-label/f1-score|PQ)$')
_CLASS_SCORE = re.compile(r'^(?:IoU/(?P<iou>.+)|coco/(?P<ap>.+)_precision)$')


def write_report(folder: str | Path) -> Path:
    """Write ``report.html``, a self-contained page, and its charts, ``report/*.png``, into a work directory.

    The page shows a summary of the config, losses and learning rate, scores over time and by class, the gallery, path
    weights, speed, parameters and environment, as far as the run logged them.

    Args:
        folder: A work directory of ``tools/train.py``.

    Returns:
        The path of the page.

    Raises:
        UserError: The folder holds no training run, or one of its files cannot be read.
    """
    folder = Path(folder)
    scalars = read_scalars(folder)
    charts = folder / 'report'
    charts.mkdir(exist_ok=True)
    results, run = (_read_json(folder / name) for name in ('results.json', 'run.json'))
    page = Environment(loader=PackageLoader('mmacmix.reporting', '.'), autoescape=True).get_template('report.html.j2')
    html = page.render(
        name=run.get('config', folder.resolve().name),
        written=f'{datetime.now():%Y-%m-%d %H:%M}',
        steps=max(lines[-1]['step'] for lines in scalars if lines),
        scores={name: _score(name, value) for name, value in results.items() if _MAIN_SCORE.search(name)},
        settings=run.get('settings', {}),
        curves=list(map(_embedded, _draw_curves(scalars, charts))),
        classes=list(map(_embedded, _draw_classes(results, charts))),
        gallery=_embedded(folder / 'gallery.png'),
        qualities=list(map(_embedded, _draw_qualities(folder / 'images.csv', charts))),
        path_weights=list(map(_embedded, _draw_path_weights(scalars, charts))),
        speed=_speed(scalars, run),
        parameters=run.get('parameters', {}),
        environment={name: value for name, value in run.get('environment', {}).items() if len(value) < 200},
    )
    path = folder / 'report.html'
    path.write_text(html)
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f'{path} cannot be read: {error}') from error


def _score(name: str, value: float) -> str:
    """A score with its unit: MMDetection's scores are fractions, those of the other hosts percentages."""
    if math.isnan(value):
        return 'none'
    return f'{value:.3f}' if name.endswith(('mAP', 'PQ')) else f'{value:.2f} %'


def _embedded(path: Path) -> str | None:
    """A picture as a data URL; a large one is converted to JPEG."""
    if not path.exists():
        return None
    data, kind = path.read_bytes(), 'png'
    if len(data) > 500_000:
        stream = io.BytesIO()
        Image.open(path).convert('RGB').save(stream, 'JPEG', quality=88)
        data, kind = stream.getvalue(), 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def _draw_curves(scalars: Scalars, charts: Path) -> Iterator[Path]:
    losses = dict.fromkeys(name for line in scalars.training for name in line if 'loss' in name)
    scores = [name for name in scalars.scores if _MAIN_SCORE.search(name)]
    curves = [
        ('losses', 'loss', scalars.training, losses),
        ('learning_rate', 'learning rate', scalars.training, ['lr']),
    ]
    if len(scalars.evaluations) > 1:  # one point is not a curve
        curves.append(('scores', 'score', scalars.evaluations, scores))
    for file, label, lines, names in curves:
        if names:
            series = {name: steps_and_values(lines, name) for name in names}
            yield draw_lines(series, 'training iterations', label, charts / f'{file}.png')


def _draw_classes(results: dict[str, float], charts: Path) -> Iterator[Path]:
    matches = {name: match for name in results if (match := _CLASS_SCORE.match(name))}
    by_class = {
        match['iou'] or match['ap']: results[name]
        for name, match in matches.items()
        if not math.isnan(results[name])  # a class without objects has no AP
    }
    if by_class:
        kind = ' of masks' if 'coco/segm_mAP' in results else ''
        label = 'IoU, percent' if any(match['iou'] for match in matches.values()) else f'AP{kind}, IoU 0.50:0.95'
        yield draw_bars(by_class, label, charts / 'classes.png')


def _draw_qualities(table: Path, charts: Path) -> Iterator[Path]:
    if table.exists():
        with table.open(newline='') as file:
            values = [float(line['quality']) for line in csv.DictReader(file)]
        yield draw_lines(
            {'': (range(len(values)), values)}, 'images, worst to best', 'quality', charts / 'qualities.png'
        )


def _draw_path_weights(scalars: Scalars, charts: Path) -> Iterator[Path]:
    steps, layers = logged_path_weights(scalars.path_weights)
    if layers:
        yield draw_path_weights({name: line[-1] for name, line in layers.items()}, charts / 'path_weights.png')
        yield draw_path_weights_over_time(steps, layers, charts / 'path_weights_over_time.png')


def _speed(scalars: Scalars, run: dict[str, Any]) -> dict[str, str]:
    times, waits, memory = (steps_and_values(scalars.training, name)[1] for name in ('time', 'data_time', 'memory'))
    if not times:
        return {}
    seconds = statistics.median(times)
    rows = {'time per iteration': f'{seconds:.3g} s, median'}
    if waits:
        rows['waiting for data'] = f'{statistics.median(waits):.2g} s per iteration, median'
    if run.get('batch_size'):
        images = run['batch_size'] * run.get('processes', 1)
        rows['throughput'] = f'{images / seconds:.3g} images per second, {images} per iteration'
    if memory:
        rows['peak GPU memory'] = f'{max(memory)} MiB'
    return rows
