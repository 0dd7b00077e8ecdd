#!/usr/bin/env python
"""Start a tool in several processes, as torchrun does with the same options; what ends the job is told in one sentence.

tools/launch.py --standalone --nproc_per_node=2 tools/train.py configs/maskrcnn_acmix.py --launcher pytorch
"""

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

from torch.distributed import DistNetworkError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run


def main() -> None:
    try:
        run(parse_args(None))
    except ChildFailedError as error:
        _end_loaders(error.failures.values())
        sys.exit(f'launch.py: the job has ended: {"; ".join(_told(error.failures))}')
    except SignalException as error:
        sys.exit(f'launch.py: the job has ended: {signal.Signals(error.sigval).name} stopped it')
    except DistNetworkError as error:
        reason = str(error).partition(' (errno')[0].splitlines()[0]
        sys.exit(f'launch.py: the processes do not find each other, see MASTER_ADDR and PORT: {reason}')


def _end_loaders(failures: Iterable[ProcessFailure]) -> None:
    """End what a process that was killed has left: loaders of data, which may wait for it forever."""
    for failure in failures:
        with suppress(ProcessLookupError):  # there is none
            os.killpg(failure.pid, signal.SIGKILL)  # torchrun starts each process as the head of a group


def _told(failures: dict[int, ProcessFailure]) -> list[str]:
    """What befell the processes, the one that the others fell with first, as far as can be told."""
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode != -signal.SIGTERM}  # torchrun's
    # One that was killed says nothing itself, and the others say that they have lost it.
    in_order = sorted((own or failures).items(), key=lambda item: (item[1].exitcode > 0, item[1].timestamp))
    fates: dict[str, list[str]] = {}
    for rank, failure in in_order:
        fates.setdefault(_fate(failure), []).append(str(rank))
    return [f'process {", ".join(ranks)} {fate}' for fate, ranks in fates.items()]


def _fate(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f'was killed ({failure.signal_name()})'
    if isinstance(failure.message, dict):  # recorded by mmacmix.running.run
        return f'failed with {failure.message["message"].splitlines()[0]}'
    return f'ended with status {failure.exitcode}'


if __name__ == '__main__':
    main()
