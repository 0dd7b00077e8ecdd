"""Lets OpenMP's threads sleep while they wait if other processes need the cores. Imported before torch loads OpenMP.

Threads that spin are faster on a quiet machine. On a busy one they hold up the threads that they wait for, and the work
takes several times as long as its share of the cores would allow. An ``OMP_WAIT_POLICY`` in the environment is kept.
Linux only.
"""

import os
import time

SECONDS = 0.1
SHARE = 0.25  # of the cores' time that other processes may take


def core_time() -> tuple[int, int]:
    """Idle time and total time so far of the cores that this process may use, in clock ticks."""
    names = {f'cpu{core}' for core in os.sched_getaffinity(0)}
    with open('/proc/stat') as stat:
        cores = [list(map(int, line.split()[1:9])) for line in stat if line.split()[0] in names]
    return sum(ticks[3] + ticks[4] for ticks in cores), sum(map(sum, cores))


def is_busy() -> bool:
    """Whether other processes use the cores at this moment."""
    try:
        before = core_time()
        time.sleep(SECONDS)
        idle, total = (after - first for after, first in zip(core_time(), before, strict=True))
    except (AttributeError, OSError):  # not Linux
        return False
    return idle < (1 - SHARE) * total


if 'OMP_WAIT_POLICY' not in os.environ and is_busy():
    os.environ['OMP_WAIT_POLICY'] = 'passive'
