"""Several processes that talk to each other over gloo, as a training on several GPUs does over NCCL."""

import multiprocessing
import os
from datetime import timedelta

import torch
from torch import distributed
from torch.multiprocessing import start_processes


def run_processes(number, function, folder, *arguments):
    """Call ``function(*arguments)`` in so many processes; the first error in one of them is raised here.

    Args:
        number: Of processes.
        function: One that can be imported.
        folder: An empty one, where the processes find each other: no port that something else may hold.
        arguments: The function's.
    """
    multiprocessing.set_forkserver_preload(['mmacmix', 'mmdet.models'])  # once for all processes of all tests
    start_processes(_process, (number, function, folder, arguments), number, start_method='forkserver')


def _process(rank, number, function, folder, arguments):
    os.environ['LOCAL_RANK'] = str(rank)  # MMEngine's wrappers read it
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder}/meeting_point',
        rank=rank,
        world_size=number,
        timeout=timedelta(seconds=60),
    )
    function(*arguments)
    distributed.destroy_process_group()
