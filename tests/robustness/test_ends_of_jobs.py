"""Jobs of several processes: a lost process ends the whole job, which can resume with another number of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from mmacmix.checkpoints import load_checkpoint
from mmacmix.datasets import write_shapes
from mmacmix.inference import build_model
from mmacmix.reporting.complexity import count_parameters
from tests.conftest import tiny_config
from tests.tooling import ROOT

LAUNCH = ROOT / 'tools' / 'launch.py'
CONFIG = ROOT / 'configs' / 'shapes' / 'mask-rcnn_acmix-r26_shapes.py'
SHARDED = ROOT / 'configs' / 'shapes' / 'mask-rcnn_acmix-r26_fsdp_shapes.py'
OPTIONS = [
    'model.backbone.base_channels=8',
    'model.neck.in_channels=[32,64,128,256]',
    'train_dataloader.batch_size=1',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.logger.interval=1',
    'train_cfg.val_interval=1000',
]
ENVIRONMENT = {
    **os.environ,
    'OMP_NUM_THREADS': '1',
    'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
    'PYTHONPATH': str(ROOT),
}
MINUTE = 60


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A working directory with the data set, while the default port of jobs is taken."""
    folder = tmp_path_factory.mktemp('jobs')
    write_shapes(folder / 'data' / 'shapes', train=4, val=1)
    with socket.socket() as other:
        try:
            other.bind(('', 29500))
            other.listen()
        except OSError:
            pass  # is taken already
        yield folder


def members(job):
    """IDs of all processes of a job, which have its name in their environment."""
    found = []
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            if job.name in path.read_bytes():
                found.append(int(path.parent.name))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found


def process_of(job, rank):
    """The ID of the process that the launcher started for a rank."""
    for number in members(job):
        parent = Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[1]
        environment = Path(f'/proc/{number}/environ').read_bytes().split(b'\0')
        if int(parent) == job.pid and f'LOCAL_RANK={rank}'.encode() in environment:
            return number
    raise LookupError(f'no rank {rank} in {members(job)}')


def start(place, log, *command):
    name = f'job-{uuid4()}'
    with open(log, 'w') as file:
        job = subprocess.Popen(
            list(map(str, command)), cwd=place, stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT | dict(JOB=name)
        )
    job.name = name.encode()
    return job


def wait_for(log, text, job):
    until = time.monotonic() + 3 * MINUTE
    while text not in log.read_text():
        assert job.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.2)


def last_words(job, log):
    """The last line of a job that fails within a minute and leaves no process."""
    try:
        assert job.wait(MINUTE) != 0
        until = time.monotonic() + MINUTE
        while members(job):
            assert time.monotonic() < until, members(job)
            time.sleep(0.2)
    finally:
        for number in members(job):
            os.kill(number, signal.SIGKILL)
    return log.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    'end, message',
    [
        ('os.kill(os.getpid(), signal.SIGKILL)', 'process 1 was killed (SIGKILL)'),
        ('os._exit(3)', 'process 1 ended with status 3'),
        ("fail('there is\\nno more')", 'process 1 failed with UserError: there is'),
    ],
)
def test_the_end_of_one_process_ends_the_job_and_is_its_last_line(end, message, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'import os, signal, time\n'
        'def fail(message):\n'
        '    from mmacmix.errors import UserError\n'
        '    from mmacmix.cli import run\n'
        '    def main(argv):\n'
        '        raise UserError(message)\n'
        '    run(main)\n'
        f'if os.environ["RANK"] == "1":\n    {end}\n'
        'time.sleep(300)\n'
    )
    log = tmp_path / 'log'
    job = start(tmp_path, log, sys.executable, LAUNCH, '--standalone', '--nproc_per_node=2', script)
    assert last_words(job, log) == f'launch.py: the job has ended: {message}'


def test_a_job_that_is_stopped_leaves_no_process(tmp_path):
    script, log = tmp_path / 'script.py', tmp_path / 'log'
    script.write_text('import time\nprint("here", flush=True)\ntime.sleep(300)\n')
    job = start(tmp_path, log, sys.executable, LAUNCH, '--standalone', '--nproc_per_node=2', script)
    wait_for(log, 'here', job)
    job.terminate()
    assert last_words(job, log) == 'launch.py: the job has ended: SIGTERM stopped it'


def test_a_taken_port_is_named(place, tmp_path):
    log = tmp_path / 'log'
    job = start(place, log, 'env', 'PORT=29500', ROOT / 'tools' / 'dist_train.sh', CONFIG, 2)
    message = last_words(job, log)
    assert message.startswith('launch.py: the processes cannot connect, check MASTER_ADDR and PORT (29500): '), message


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
def test_a_killed_process_ends_the_training(rank, place, tmp_path):
    log = tmp_path / 'log'
    command = [ROOT / 'tools' / 'dist_train.sh', CONFIG, 2, '--work-dir', tmp_path, '--cfg-options', *OPTIONS]
    job = start(place, log, *command)
    wait_for(log, 'Iter(train)', job)
    os.kill(process_of(job, rank), signal.SIGKILL)
    assert last_words(job, log).startswith(f'launch.py: the job has ended: process {rank} was killed (SIGKILL)')


def train(place, config, processes, iterations, *more):
    """Output lines of a training."""
    tool = ['train.py', config] if processes == 1 else ['dist_train.sh', config, str(processes)]
    options = ['--cfg-options', *OPTIONS, f'train_cfg.max_iters={iterations}']
    command = [ROOT / 'tools' / tool[0], *tool[1:], *more, *options]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return (done.stdout + done.stderr).splitlines()


def iterations(lines):
    return [line.partition('Iter(train) [')[2].partition('/')[0] for line in lines if 'Iter(train) [' in line]


@pytest.mark.slow
def test_a_training_resumes_in_another_number_of_processes(place):
    own = place / 'own.py'
    own.write_text(
        f'_base_ = {str(CONFIG)!r}\nauto_scale_lr = dict(enable=False, base_batch_size=8)\nparam_scheduler = []\n'
    )
    arguments = ['--work-dir', 'resumed', '--auto-scale-lr']

    def saved(iteration):
        return load_checkpoint(place / 'resumed' / f'iter_{iteration}.pth')

    def warnings(lines):
        return [line.partition('Training continues ')[2] for line in lines if 'Training continues ' in line]

    lines = train(place, own, 2, 2, *arguments)
    assert iterations(lines) == ['1', '2'] and warnings(lines) == []
    # The learning rate is for eight images per iteration.
    assert saved(2)['optimizer']['param_groups'][0]['lr'] == pytest.approx(2.5e-3 * 2 / 8)
    for processes, iteration, before in ((1, 3, 2), (2, 4, 1)):
        lines = train(place, own, processes, iteration, '--resume', *arguments)
        assert iterations(lines) == [str(iteration)]
        (warning,) = warnings(lines)
        assert warning.startswith(f'in {processes} processes instead of {before}: ')
        assert saved(iteration)['meta']['iter'] == iteration and saved(iteration)['meta']['processes'] == processes
        assert saved(iteration)['optimizer']['param_groups'][0]['lr'] == pytest.approx(2.5e-3 * 2 / 8)  # as warned


@pytest.mark.slow
def test_the_tools_train_and_resume_a_sharded_network(place):
    network = build_model(tiny_config('mmdet'))
    assert iterations(train(place, SHARDED, 2, 1, '--work-dir', 'sharded')) == ['1']
    network.load_state_dict(load_checkpoint(place / 'sharded' / 'iter_1.pth')['state_dict'])
    logged = (place / 'sharded').glob('*/vis_data/scalars.json')
    assert '"path_weights/backbone.layer1.0.conv2/attention_rate"' in next(logged).read_text()
    counted = json.loads((place / 'sharded' / 'run.json').read_text())['parameters']
    assert counted == count_parameters(network)
    assert iterations(train(place, SHARDED, 2, 2, '--work-dir', 'sharded', '--resume')) == ['2']
    assert load_checkpoint(place / 'sharded' / 'iter_2.pth')['meta']['iter'] == 2
