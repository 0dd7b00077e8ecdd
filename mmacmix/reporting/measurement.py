"""Time and memory of alternatives, taken side by side."""

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn


class Work(NamedTuple):
    """What is measured."""

    #: Does it once. What it returns, if anything, are outputs and their gradients: backward is part of the work then.
    run: Callable[[], tuple[Sequence[Tensor], Sequence[Tensor | None]] | None]
    #: Networks whose gradients are forgotten before the work is done again.
    networks: Sequence[nn.Module] = ()


class Measured(NamedTuple):
    """What was measured of one alternative."""

    seconds: list[float]  # a repeat each
    peak_memory: int | None  # bytes taken at most beside what was there before; None where it cannot be told
    kept_memory: int | None  # bytes that forward keeps for backward; None if there is no backward


class Ratio(NamedTuple):
    """How many times longer one alternative takes than another, over the repeats."""

    median: float
    lowest: float
    highest: float


def measure(alternatives: dict[str, Work], repeats: int, device: str | torch.device = 'cpu') -> dict[str, Measured]:
    """Measure alternatives in turn, repeat by repeat, so that what disturbs the machine disturbs all of them.

    Args:
        alternatives: Name to work.
        repeats: Repeats of each, after two that are not timed: one tells the memory that backward needs, one the peak.
        device: Where the work is done. Default: ``'cpu'``.
    """
    device = torch.device(device)
    kept = {name: _kept_memory(work) for name, work in alternatives.items()}
    peaks = {name: _peak_memory(work, device) for name, work in alternatives.items()}
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repeats):
        for name, work in alternatives.items():
            _forget(work)
            start = _now(device)
            _do(work)
            seconds[name].append(_now(device) - start)
    return {name: Measured(seconds[name], peaks[name], kept[name]) for name in alternatives}


def ratio(measured: Measured, other: Measured) -> Ratio:
    """How many times longer one takes than the other; a repeat is compared with the other's same repeat."""
    ratios = [a / b for a, b in zip(measured.seconds, other.seconds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def table(results: dict[str, Measured], baseline: str) -> str:
    """A Markdown table: median time, ratio to a baseline with its spread, and memory."""
    rows = [['', 'ms', f'times {baseline}', 'lowest to highest', 'peak MiB', 'kept for backward MiB']]
    rows.append(['---'] * len(rows[0]))
    for name, measured in results.items():
        times = ratio(measured, results[baseline])
        rows.append(
            [
                name,
                f'{statistics.median(measured.seconds) * 1e3:.1f}',
                f'{times.median:.3g}',
                f'{times.lowest:.3g} to {times.highest:.3g}',
                _mebibytes(measured.peak_memory),
                _mebibytes(measured.kept_memory),
            ]
        )
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows) + '\n'


def draw(results: dict[str, Measured], title: str, path: str | Path) -> None:
    """Draw the times into one PNG: a bar for the median, a line from the fastest repeat to the slowest."""
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(results) + 1.5))
    names = list(results)[::-1]
    for height, name in enumerate(names):
        milliseconds = [1e3 * each for each in results[name].seconds]
        axes.barh(height, statistics.median(milliseconds), color='tab:blue', alpha=0.5)
        axes.plot([min(milliseconds), max(milliseconds)], [height] * 2, color='black')
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel('milliseconds')
    axes.set_title(title)
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches='tight')
    plt.close(figure)


def draw_scaling(series: dict[str, list[tuple[float, Measured]]], unit: str, title: str, path: str | Path) -> None:
    """Draw time and peak memory over the size of the work into one PNG, with the straight line nearest to all of them.

    Args:
        series: Name to sizes and what was measured of each.
        unit: What the size counts.
        title: Title of the chart.
        path: The PNG to write.
    """
    sizes = [size for points in series.values() for size, _ in points]
    shown = {'seconds, median': lambda measured: statistics.median(measured.seconds)}
    if all(measured.peak_memory is not None for points in series.values() for _, measured in points):
        shown['peak memory, GiB'] = lambda measured: measured.peak_memory / 2**30
    figure, panels = plt.subplots(1, len(shown), figsize=(5 * len(shown), 4), squeeze=False)
    for axes, (label, number) in zip(panels[0], shown.items(), strict=True):
        numbers = [number(measured) for points in series.values() for _, measured in points]
        if len(set(sizes)) > 1:
            ends = np.array([0, max(sizes)])
            axes.plot(ends, np.polyval(np.polyfit(sizes, numbers, 1), ends), color='gray')
        for (name, points), marker in zip(series.items(), 'os^v', strict=False):
            axes.plot(*zip(*((size, number(measured)) for size, measured in points), strict=True), marker, label=name)
        axes.set_xlabel(unit)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120, bbox_inches='tight')
    plt.close(figure)


def _do(work: Work) -> None:
    result = work.run()
    if result is not None:
        torch.autograd.backward(*result)


def _forget(work: Work) -> None:
    for network in work.networks:
        network.zero_grad()


def _now(device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _kept_memory(work: Work) -> int | None:
    """Bytes of the storages that autograd saves, parameters left out."""
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        if not any(isinstance(each, nn.Parameter) for each in (tensor, tensor._base)):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work.run()
    if result is None:
        return None
    torch.autograd.backward(*result)
    return sum(storages.values())


def _peak_memory(work: Work, device: torch.device) -> int | None:
    _forget(work)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _do(work)
        return torch.cuda.max_memory_allocated(device) - before
    status = Path('/proc/self/status')
    try:
        ctypes.CDLL(None).malloc_trim(0)  # hand back what earlier work has freed
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    except (AttributeError, OSError):  # not Linux
        return None
    before = _kibibytes(status, 'VmRSS')
    _do(work)
    return max(0, _kibibytes(status, 'VmHWM') - before) * 1024


def _kibibytes(status: Path, field: str) -> int:
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1])


def _mebibytes(number: int | None) -> str:
    return '' if number is None else f'{number / 2**20:.0f}'
