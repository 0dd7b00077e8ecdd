"""Several processes that communicate over gloo, as training on several GPUs does over NCCL."""

import multiprocessing
import os
from datetime import timedelta

import torch
from torch import distributed
from torch.multiprocessing import start_processes


def run_processes(number, function, folder, *arguments):
    """Call ``function(*arguments)`` in a number of processes; the first error in one of them is raised here.

    Args:
        number: Number of processes.
        function: A function that can be imported.
        folder: An empty folder in which the processes find each other, without a port that may be taken.
        arguments: Arguments of the function.
    """
    multiprocessing.set_forkserver_preload(['mmacmix', 'mmdet.models'])  # imported once for all processes of all tests
    start_processes(_process, (number, function, folder, arguments), number, start_method='forkserver')


def _process(rank, number, function, folder, arguments):
    os.environ['LOCAL_RANK'] = str(rank)  # read by MMEngine's wrappers
    torch.set_num_threads(1)
    store, timeout = f'file://{folder}/meeting_point', timedelta(seconds=60)
    distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=number, timeout=timeout)
    function(*arguments)
    distributed.destroy_process_group()
