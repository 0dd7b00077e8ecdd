"""Time and memory of alternatives, measured in turn."""

import ctypes
import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import ACmix
from .charts import saved_axes
from .tables import markdown_table


class Work(NamedTuple):
    """Work to measure."""

    #: Does the work once. If it returns outputs and their gradients, the backward pass is part of the work.
    run: Callable[[], tuple[Sequence[Tensor], Sequence[Tensor | None]] | None]
    #: Networks whose gradients are reset before each repeat.
    networks: Sequence[nn.Module] = ()


class Measured(NamedTuple):
    """Measurements of one alternative."""

    seconds: list[float]  # per repeat
    peak_memory: int | None  # peak in bytes above the memory in use before; None if the system does not report it
    kept_memory: int | None  # bytes saved for backward; None without a backward pass


def with_backends(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """A copy of a network for each backend of its ACmix layers."""
    networks = {name: deepcopy(network) for name in names}
    for name, copy in networks.items():
        for module in copy.modules():
            if isinstance(module, ACmix):
                module.backend = name
    return networks


def autocast(device: str | torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Autocast to a dtype narrower than float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(torch.device(device).type, dtype)


def measure(alternatives: dict[str, Work], repeats: int, device: str | torch.device = 'cpu') -> dict[str, Measured]:
    """Measure alternatives in turn, repeat by repeat, so that disturbances affect all of them alike.

    Args:
        alternatives: Name to work.
        repeats: Timed repeats. Two more come first: one measures the memory saved for backward, one the peak.
        device: The device that the work uses. Default: ``'cpu'``.
    """
    device = torch.device(device)
    kept = {name: _kept_memory(work) for name, work in alternatives.items()}
    peaks = {name: _peak_memory(work, device) for name, work in alternatives.items()}
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repeats):
        for name, work in alternatives.items():
            _reset_gradients(work)
            start = _now(device)
            _do(work)
            seconds[name].append(_now(device) - start)
    return {name: Measured(seconds[name], peaks[name], kept[name]) for name in alternatives}


def table(results: dict[str, Measured], baseline: str) -> str:
    """A Markdown table: median time, its ratio to a baseline's time in the same repeat with range, and memory."""
    titles = ['', 'ms', f'times {baseline}', 'lowest to highest', 'peak MiB', 'kept for backward MiB']
    rows = []
    for name, measured in results.items():
        ratios = [a / b for a, b in zip(measured.seconds, results[baseline].seconds, strict=True)]
        spread = f'{min(ratios):.3g} to {max(ratios):.3g}'
        milliseconds = f'{statistics.median(measured.seconds) * 1e3:.1f}'
        memory = ('' if size is None else f'{size / 2**20:.0f}' for size in measured[1:])
        rows.append([name, milliseconds, f'{statistics.median(ratios):.3g}', spread, *memory])
    return markdown_table(titles, rows)


def draw(results: dict[str, Measured], title: str, path: str | Path) -> None:
    """Draw the times into one PNG: a bar for the median, a line from the fastest to the slowest repeat."""
    with saved_axes(path, (8, 0.5 * len(results) + 1.5)) as ((axes,),):
        for name, measured in results.items():
            milliseconds = [1e3 * seconds for seconds in measured.seconds]
            axes.barh(name, statistics.median(milliseconds), color='tab:blue', alpha=0.5)
            axes.plot([min(milliseconds), max(milliseconds)], [name] * 2, color='black')
        axes.invert_yaxis()
        axes.set(xlabel='milliseconds', title=title)
        axes.grid(axis='x', alpha=0.3)


def draw_scaling(series: dict[str, list[tuple[float, Measured]]], unit: str, title: str, path: str | Path) -> None:
    """Draw time and peak memory over the size of the work into one PNG, each with a line fitted to all points.

    ``series`` maps a name to pairs of a size and its measurements.
    """
    sizes = [size for points in series.values() for size, _ in points]
    quantities = {'seconds, median': lambda measured: statistics.median(measured.seconds)}
    if all(measured.peak_memory is not None for points in series.values() for _, measured in points):
        quantities['peak memory, GiB'] = lambda measured: measured.peak_memory / 2**30
    with saved_axes(path, (5 * len(quantities), 4), columns=len(quantities)) as (row,):
        for axes, (label, quantity) in zip(row, quantities.items(), strict=True):
            values = [quantity(measured) for points in series.values() for _, measured in points]
            if len(set(sizes)) > 1:
                ends = np.array([0, max(sizes)])
                axes.plot(ends, np.polyval(np.polyfit(sizes, values, 1), ends), color='gray')
            for (name, points), marker in zip(series.items(), 'os^v', strict=False):
                xs, ys = zip(*((size, quantity(measured)) for size, measured in points), strict=True)
                axes.plot(xs, ys, marker, label=name)
            axes.set(xlabel=unit, ylabel=label)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend()
        row[0].figure.suptitle(title)


def _do(work: Work) -> None:
    result = work.run()
    if result is not None:
        torch.autograd.backward(*result)


def _reset_gradients(work: Work) -> None:
    for network in work.networks:
        network.zero_grad()


def _now(device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _kept_memory(work: Work) -> int | None:
    """Bytes of the storages that autograd saves, without parameters."""
    storages = {}

    def record(tensor: Tensor) -> Tensor:
        if not any(isinstance(each, nn.Parameter) for each in (tensor, tensor._base)):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        result = work.run()
    if result is None:
        return None
    torch.autograd.backward(*result)
    return sum(storages.values())


def _peak_memory(work: Work, device: torch.device) -> int | None:
    _reset_gradients(work)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _do(work)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system
        Path('/proc/self/clear_refs').write_text('5')  # reset the peak
    except (AttributeError, OSError):  # not Linux
        return None
    before = _process_memory('VmRSS')
    _do(work)
    return max(0, _process_memory('VmHWM') - before)


def _process_memory(field: str) -> int:
    """A field of ``/proc/self/status`` in bytes."""
    return 1024 * int(re.search(rf'^{field}:\s*(\d+)', Path('/proc/self/status').read_text(), re.MULTILINE)[1])
