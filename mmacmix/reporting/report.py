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

from ..datasets import innermost
from .charts import draw_bars, draw_lines, draw_path_weights, draw_path_weights_over_time
from .dumped_config import read_dumped_config
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
        ValueError: There is no training run in it, or what it left cannot be read as data.
    """
    folder = Path(folder)
    scalars = read_scalars(folder)
    charts = folder / 'report'
    charts.mkdir(exist_ok=True)
    # MMEngine's record of what was run. Other Python files in the folder may be anything.
    configs = sorted(folder.glob('*/vis_data/config.py'))
    cfg = read_dumped_config(configs[-1]) if configs else {}
    results, run = (_read_json(folder / name) for name in ('results.json', 'run.json'))
    last = max(lines[-1]['step'] for lines in scalars if lines)
    page = Environment(loader=PackageLoader('mmacmix.reporting', '.'), autoescape=True).get_template('report.html.j2')
    html = page.render(
        name=run.get('config', folder.resolve().name),
        written=f'{datetime.now():%Y-%m-%d %H:%M}',
        steps=last,
        scores={name: _score(name, value) for name, value in results.items() if _MAIN_SCORE.search(name)},
        settings=_settings(cfg) if cfg else {},
        curves=_curves(scalars, charts),
        classes=_classes(results, charts),
        qualities=_qualities(folder / 'images.csv', charts),
        gallery=_embedded(folder / 'gallery.png'),
        path_weights=_path_weights(scalars, charts),
        speed=_speed(scalars, cfg, run),
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
        raise ValueError(f'{path} cannot be read: {error}') from error


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


def _settings(cfg: dict[str, Any]) -> dict[str, str]:
    """The configuration in short."""
    model, loader = cfg.get('model', {}), cfg.get('train_dataloader') or {}
    dataset = innermost(loader.get('dataset', {}))
    optimizer = dict(cfg.get('optim_wrapper', {}).get('optimizer', {}))
    loop = cfg.get('train_cfg') or {}
    rows = {
        'model': model.get('type'),
        **{
            part.replace('_', ' '): _brief(model[part])
            for part in ('backbone', 'neck', 'rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head', 'head')
            if model.get(part)
        },
        **{f'roi head, {part}': _brief(model['roi_head'][part]) for part in _heads(model.get('roi_head'))},
        'data': f'{dataset.get("type")} in {dataset.get("data_root")}',
        'images a process': loader.get('batch_size'),
        'optimiser': _brief(optimizer),
        'schedule': '; '.join(_brief(each) for each in _list(cfg.get('param_scheduler'))),
        'training': _brief(loop),
        'starts from': cfg.get('load_from')
        or _brief((model.get('backbone') or {}).get('init_cfg'))
        or 'random weights',
    }
    return {name: str(value) for name, value in rows.items() if value}


def _heads(roi_head: dict | None) -> list[str]:
    return [part for part in ('bbox_head', 'mask_head') if isinstance((roi_head or {}).get(part), dict)]


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value] if value else []


def _brief(settings: Any) -> str:
    """``Type(name=value, ...)`` of a part of a config, without what is nested in it."""
    if isinstance(settings, (list, tuple)):
        return '; '.join(_brief(each) for each in settings)
    if not isinstance(settings, dict):
        return '' if settings is None else str(settings)
    settings = {
        name: value
        for name, value in settings.items()
        if (name not in ('type', 'init_cfg') and not isinstance(value, (dict, list))) or name == 'acmix'
    } | {'type': settings.get('type')}
    kind = settings.pop('type') or ''
    arguments = ', '.join(f'{name}={value}' for name, value in settings.items())
    return f'{getattr(kind, "__name__", kind)}({arguments})'


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
    if scores:
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


def _speed(scalars: Scalars, cfg: dict[str, Any], run: dict[str, Any]) -> dict[str, str]:
    times = [line['time'] for line in scalars.training if 'time' in line]
    if not times:
        return {}
    seconds = statistics.median(times)
    rows = {'an iteration': f'{seconds:.3g} s, median'}
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    if batch:
        images = batch * run.get('processes', 1)
        rows['training'] = f'{images / seconds:.3g} images a second, {images} at a time'
    waits = [line['data_time'] for line in scalars.training if 'data_time' in line]
    if waits:
        rows['of it waiting for data'] = f'{statistics.median(waits):.2g} s'
    memory = [line['memory'] for line in scalars.training if 'memory' in line]
    if memory:
        rows['GPU memory, at most'] = f'{max(memory)} MiB'
    return rows
