#!/usr/bin/env python
"""Start a tool in several processes, like torchrun and with its options, and report failures in one sentence.

tools/launch.py --standalone --nproc_per_node=2 tools/train.py configs/maskrcnn_acmix.py --launcher pytorch
"""

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run


def main() -> None:
    args = parse_args(None)
    try:
        run(args)
    except ChildFailedError as error:
        _end_loaders(error.failures.values())
        sys.exit(f'launch.py: the job has ended: {"; ".join(_reasons(error.failures))}')
    except SignalException as error:
        sys.exit(f'launch.py: the job has ended: {signal.Signals(error.sigval).name} stopped it')
    except RuntimeError as error:  # newer versions of torch raise a subclass, DistNetworkError
        if 'socket' not in str(error):
            raise
        reason = str(error).partition(' (errno')[0].splitlines()[0]
        sys.exit(f'launch.py: the processes cannot connect, check MASTER_ADDR and PORT ({args.master_port}): {reason}')


def _end_loaders(failures: Iterable[ProcessFailure]) -> None:
    """Kill the data loaders of a killed process, which could wait for it forever."""
    for failure in failures:
        with suppress(ProcessLookupError):
            os.killpg(failure.pid, signal.SIGKILL)  # torchrun makes each process a group leader


def _reasons(failures: dict[int, ProcessFailure]) -> list[str]:
    """Why the processes ended, with the probable root cause first."""
    # torchrun sends SIGTERM to the processes that are left.
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode != -signal.SIGTERM}
    # If a process was killed, the others fail because they lost it.
    in_order = sorted((own or failures).items(), key=lambda item: (item[1].exitcode > 0, item[1].timestamp))
    ranks: dict[str, list[str]] = {}
    for rank, failure in in_order:
        ranks.setdefault(_reason(failure), []).append(str(rank))
    return [f'process {", ".join(each)} {reason}' for reason, each in ranks.items()]


def _reason(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f'was killed ({failure.signal_name()})'
    if isinstance(failure.message, dict):  # recorded by mmacmix.cli.run
        return f'failed with {failure.message["message"].splitlines()[0]}'
    return f'ended with status {failure.exitcode}'


if __name__ == '__main__':
    main()
