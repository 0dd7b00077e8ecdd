import os
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # before anybody imports triton: kernels run on the CPU


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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


@pytest.fixture(scope='module', params=TINY)
def trained(request, tmp_path_factory):
    """A small network of each host with random weights: host, config, checkpoint, and a folder with two images."""
    from mmengine.config import Config
    from mmengine.logging import HistoryBuffer

    from mmacmix.datasets import write_shapes
    from mmacmix.engine import PlainStateHook
    from mmacmix.inference import build_model

    folder = tmp_path_factory.mktemp(request.param)
    write_shapes(folder / 'shapes', train=1, val=2)
    path, options = TINY[request.param]
    cfg = Config.fromfile(Path(__file__).parents[1] / path)
    cfg.merge_from_dict(options)
    cfg.dump(folder / 'tiny.py')
    torch.manual_seed(0)
    # What MMEngine keeps beside the weights, as a training of this package writes it.
    log = dict(log_scalars={'train/loss': HistoryBuffer([0.5, 0.25], [1, 1])}, runtime_info=dict(seed=np.int64(0)))
    saved = dict(state_dict=build_model(cfg).state_dict(), meta=dict(epoch=0, iter=1), message_hub=log)
    PlainStateHook().before_save_checkpoint(None, saved)
    torch.save(saved, folder / 'tiny.pth')
    return request.param, folder / 'tiny.py', folder / 'tiny.pth', folder / 'shapes' / 'images' / 'val'
