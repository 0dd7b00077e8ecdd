"""One page about a training run."""

import base64
import csv
import io
import json
import math
import re
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from ..errors import UserError
from .charts import draw_bars, draw_lines, draw_path_weights, draw_path_weights_over_time
from .path_weights import logged_path_weights
from .scalars import Scalars, read_scalars

_MAIN_SCORE = re.compile(r'(mAP|mIoU|mAcc|aAcc|mDice|mFscore|accuracy/top\d|single-label/f1-score|PQ)$')
_CLASS_SCORE = re.compile(r'^(?:IoU/(?P<iou>.+)|coco/(?P<ap>.+)_precision)$')


def write_report(folder: str | Path) -> Path:
    """Write ``report.html``, one page with everything in it, and its charts, ``report/*.png``, into a work directory.

    The configuration in short, losses and learning rate, scores over time and by class, the gallery, path weights,
    speed, parameters and environment; what the run has not left is left out.

    Args:
        folder: A work directory that ``tools/train.py`` has written to.

    Returns:
        The page.

    Raises:
        UserError: There is no training run in it, or what it left cannot be read as data.
    """
    folder = Path(folder)
    scalars = read_scalars(folder)
    charts = folder / 'report'
    charts.mkdir(exist_ok=True)
    results, run = (_read_json(folder / name) for name in ('results.json', 'run.json'))
    last = max(lines[-1]['step'] for lines in scalars if lines)
    page = Environment(loader=PackageLoader('mmacmix.reporting', '.'), autoescape=True).get_template('report.html.j2')
    html = page.render(
        name=run.get('config', folder.resolve().name),
        written=f'{datetime.now():%Y-%m-%d %H:%M}',
        steps=last,
        scores={name: _score(name, value) for name, value in results.items() if _MAIN_SCORE.search(name)},
        settings=run.get('settings', {}),
        curves=_curves(scalars, charts),
        classes=_classes(results, charts),
        qualities=_qualities(folder / 'images.csv', charts),
        gallery=_embedded(folder / 'gallery.png'),
        path_weights=_path_weights(scalars, charts),
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
    """MMDetection's scores are shares, those of the other hosts percent."""
    if math.isnan(value):
        return 'none'
    return f'{value:.3f}' if name.endswith(('mAP', 'PQ')) else f'{value:.2f} %'


def _embedded(path: Path) -> str | None:
    """A picture as part of a page; a large one as JPEG."""
    if not path.exists():
        return None
    data, kind = path.read_bytes(), 'png'
    if len(data) > 500_000:
        stream = io.BytesIO()
        Image.open(path).convert('RGB').save(stream, 'JPEG', quality=88)
        data, kind = stream.getvalue(), 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def _curves(scalars: Scalars, charts: Path) -> list[str | None]:
    names = dict.fromkeys(name for line in scalars.training for name in line if 'loss' in name)
    losses = {name: steps_and_values(scalars.training, name) for name in names}
    pictures = []
    if losses:
        draw_lines(losses, 'training iterations', 'loss', charts / 'losses.png')
        pictures.append(_embedded(charts / 'losses.png'))
    rate = {'lr': steps_and_values(scalars.training, 'lr')}
    draw_lines(rate, 'training iterations', 'learning rate', charts / 'learning_rate.png')
    pictures.append(_embedded(charts / 'learning_rate.png'))
    scores = [name for name in scalars.scores if _MAIN_SCORE.search(name)]
    if scores and len(scalars.evaluations) > 1:  # a chart of one point tells nothing
        series = {name: steps_and_values(scalars.evaluations, name) for name in scores}
        draw_lines(series, 'training iterations', 'score', charts / 'scores.png')
        pictures.append(_embedded(charts / 'scores.png'))
    return pictures


def steps_and_values(lines: Sequence[dict], name: str) -> tuple[list[int], list[float]]:
    """Those of the lines that have such a number."""
    lines = [line for line in lines if name in line]
    return [line['step'] for line in lines], [line[name] for line in lines]


def _classes(results: dict[str, float], charts: Path) -> str | None:
    matches = {name: _CLASS_SCORE.match(name) for name in results}
    by_class = {
        match['iou'] or match['ap']: results[name]
        for name, match in matches.items()
        if match and results[name] == results[name]  # a class without objects has no AP
    }
    if not by_class:
        return None
    ious = any(match and match['iou'] for match in matches.values())
    of_masks = ' of masks' if 'coco/segm_mAP' in results else ''
    draw_bars(by_class, 'IoU, percent' if ious else f'AP{of_masks}, IoU 0.50:0.95', charts / 'classes.png')
    return _embedded(charts / 'classes.png')


def _qualities(table: Path, charts: Path) -> str | None:
    if not table.exists():
        return None
    with table.open(newline='') as file:
        values = [float(line['quality']) for line in csv.DictReader(file)]
    draw_lines({'': (range(len(values)), values)}, 'images, worst to best', 'quality', charts / 'qualities.png')
    return _embedded(charts / 'qualities.png')


def _path_weights(scalars: Scalars, charts: Path) -> list[str | None]:
    steps, layers = logged_path_weights(scalars.path_weights)
    if not layers:
        return []
    draw_path_weights({name: line[-1] for name, line in layers.items()}, charts / 'path_weights.png')
    draw_path_weights_over_time(steps, layers, charts / 'path_weights_over_time.png')
    return [_embedded(charts / name) for name in ('path_weights.png', 'path_weights_over_time.png')]


def _speed(scalars: Scalars, run: dict[str, Any]) -> dict[str, str]:
    times = [line['time'] for line in scalars.training if 'time' in line]
    if not times:
        return {}
    seconds = statistics.median(times)
    rows = {'an iteration': f'{seconds:.3g} s, median'}
    if run.get('batch_size'):
        images = run['batch_size'] * run.get('processes', 1)
        rows['training'] = f'{images / seconds:.3g} images a second, {images} at a time'
    waits = [line['data_time'] for line in scalars.training if 'data_time' in line]
    if waits:
        rows['of it waiting for data'] = f'{statistics.median(waits):.2g} s'
    memory = [line['memory'] for line in scalars.training if 'memory' in line]
    if memory:
        rows['GPU memory, at most'] = f'{max(memory)} MiB'
    return rows
