"""Fixtures of all tests: a fixed seed, kernels interpreted on CPUs, and small networks with checkpoints."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

#: Where the Triton kernels run: on a GPU if present, else in Triton's interpreter.
DEVICE = torch.device('cuda', 0) if torch.cuda.is_available() else torch.device('cpu')
if DEVICE.type == 'cpu':
    os.environ['TRITON_INTERPRET'] = '1'  # read when Triton is imported


def needs_torch(oldest, purpose):
    """The mark of a test for what versions of torch before the ``oldest`` one that is tested lack."""
    return pytest.mark.skipif(torch.__version__ < oldest, reason=f'{purpose} needs torch {oldest}')


#: Types narrower than float32.
HALF = [pytest.param(torch.float16, marks=needs_torch('2.4', 'float16 on CPUs')), torch.bfloat16]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def process_settings():
    """Undo what a command line switches over for its process, for the tests that follow in the same one."""
    from mmengine.runner import CheckpointLoader

    environment, loaders, load = dict(os.environ), dict(CheckpointLoader._schemes), torch.load
    has_safe_globals = torch.__version__ >= '2.5'
    safe_globals = torch.serialization.get_safe_globals() if has_safe_globals else []
    yield
    os.environ.clear()
    os.environ.update(environment)
    CheckpointLoader._schemes, torch.load = loaders, load
    if has_safe_globals:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(safe_globals)


TINY = {
    'mmdet': (
        'configs/shapes/mask-rcnn_acmix-r26_shapes.py',
        {
            'model.backbone.base_channels': 8,
            'model.neck.in_channels': [32, 64, 128, 256],
            'model.test_cfg.rcnn.score_thr': 0.0,
        },
    ),
    'mmseg': (
        'configs/shapes/upernet_acmix-swin_shapes.py',
        {
            'model.backbone.arch.embed_dims': 8,
            'model.decode_head.in_channels': [8, 16, 32],
            'model.auxiliary_head.in_channels': 16,
        },
    ),
}
# Options that load single images in the process itself.
SINGLE = {
    f'{part}_dataloader.{key}': value
    for part in ('train', 'val', 'test')
    for key, value in dict(num_workers=0, persistent_workers=False, batch_size=1).items()
}


def tiny_config(host, options=()):
    """The config of a small network for the generated shapes, with options."""
    from mmengine.config import Config

    path, tiny = TINY[host]
    cfg = Config.fromfile(Path(__file__).parents[1] / path)
    cfg.merge_from_dict(tiny | dict(options))
    return cfg


@pytest.fixture(scope='module', params=TINY)
def trained(request, tmp_path_factory):
    """A small network per host with random weights: host, config, checkpoint, and a folder with two images."""
    from mmengine.logging import HistoryBuffer

    from mmacmix.datasets import write_shapes
    from mmacmix.engine import PlainStateHook
    from mmacmix.inference import build_model

    folder = tmp_path_factory.mktemp(request.param)
    write_shapes(folder / 'shapes', train=1, val=2)
    cfg = tiny_config(request.param)
    cfg.dump(folder / 'tiny.py')
    torch.manual_seed(0)
    # MMEngine's training state, as trainings of this package save it beside the weights.
    log = dict(log_scalars={'train/loss': HistoryBuffer([0.5, 0.25], [1, 1])}, runtime_info=dict(seed=np.int64(0)))
    saved = dict(state_dict=build_model(cfg).state_dict(), meta=dict(epoch=0, iter=1), message_hub=log)
    PlainStateHook().before_save_checkpoint(None, saved)
    torch.save(saved, folder / 'tiny.pth')
    return request.param, folder / 'tiny.py', folder / 'tiny.pth', folder / 'shapes' / 'images' / 'val'
