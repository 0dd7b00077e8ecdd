"""Configs are adapted to several processes. That these train is tested in tests/robustness."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

from mmacmix.deploy import fuse
from mmacmix.engine import processes
from mmacmix.engine.processes import prepare_processes

SYNCHRONIZED = dict(type='SyncBN', requires_grad=True)
PVT = dict(depths=(1, 1), embed_dims=(8, 16), num_heads=(1, 2), mlp_ratios=(2, 2), sr_ratios=(2, 1))
SWIN = dict(embed_dims=8, depths=(1, 1), num_heads=(1, 2))
BACKBONES = [
    dict(type='ACmixResNet', depth=26, base_channels=4, norm_cfg=SYNCHRONIZED),
    dict(type='ACmixSAN', depth=10, base_channels=32, kernel_sizes=(3,) * 5, norm_cfg=SYNCHRONIZED),
    dict(type='XVolutionResNet', depth=26, base_channels=4, norm_cfg=SYNCHRONIZED),
    dict(type='LESAResNet', depth=26, base_channels=16, norm_cfg=SYNCHRONIZED),
    dict(type='ACmixSwinTransformer', arch=SWIN, out_indices=(0, 1), drop_path_rate=0),
    dict(type='ACmixPyramidVisionTransformer', arch=PVT, patch_sizes=(4, 2), out_indices=(0, 1), drop_path_rate=0),
]


@pytest.mark.parametrize('launcher, starter', [('pytorch', 'torchrun'), ('slurm', 'srun'), ('mpi', 'mpirun')])
def test_a_launcher_that_did_not_start_the_process_is_refused(launcher, starter, monkeypatch):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=f'--launcher {launcher} needs processes started by {starter}'):
        prepare_processes(Config(dict(launcher=launcher)))


def test_a_launcher_that_needs_gpus_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(
        ValueError, match='--launcher slurm needs GPUs, and torch finds none; on CPUs use --launcher pytorch'
    ):
        prepare_processes(Config(dict(launcher='slurm')))


def test_a_sharded_network_needs_several_processes():
    with pytest.raises(ValueError, match='start them with tools/dist_train.sh'):
        prepare_processes(Config(dict(launcher='none', strategy=dict(type='ShardedStrategy'))))


@pytest.fixture
def started(monkeypatch):
    """Make this process the only one that torchrun started, on a CPU."""
    for name, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='127.0.0.1', MASTER_PORT=0).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    'settings, warned',
    [
        (dict(sync_bn='torch'), True),
        (dict(model=dict(backbone=dict(norm_cfg=SYNCHRONIZED), heads=[dict(norm_cfg=dict(type='MMSyncBN'))])), True),
        (dict(model=dict(backbone=dict(norm_cfg=dict(type='GN')))), False),
    ],
)
def test_batch_normalisation_is_not_synchronised_on_cpus(settings, warned, started, monkeypatch):
    warnings = []
    monkeypatch.setattr(processes, 'print_log', lambda message, *_: warnings.append(message))
    cfg = Config(dict(launcher='pytorch', model=dict()) | settings)
    prepare_processes(cfg)
    assert 'Sync' not in cfg.pretty_text and not cfg.get('sync_bn')
    assert [warning.split(':')[0] for warning in warnings] == ['Synchronised batch normalisation needs GPUs'] * warned


def assert_equal(actual, expected):
    for each, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('backbone', BACKBONES, ids=lambda backbone: backbone['type'])
def test_synchronised_batch_normalisation_equals_the_plain_one_in_one_process(backbone):
    images = torch.rand(2, 3, 64, 64)
    plain = revert_sync_batchnorm(MODELS.build(backbone))
    kinds = [type(module) for module in plain.modules()]
    assert nn.SyncBatchNorm not in kinds
    trained = plain.train()(images)  # updates the statistics
    fixed = plain.eval()(images)
    synchronised = convert_sync_batchnorm(plain, 'torch')
    number = sum(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in synchronised.modules()) == number
    assert_equal(synchronised.eval()(images), fixed)
    assert_equal(synchronised.train()(images), trained)
    assert_equal(fuse(synchronised.eval())(images), synchronised(images))
