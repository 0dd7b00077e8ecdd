"""Checkpoints hold only tensors and plain values, and log buffers are restored from them."""

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmacmix.engine import PlainStateHook


def test_torch_reads_the_state_by_default_and_log_buffers_are_restored(tmp_path):
    hub = MessageHub('plain state')
    for loss in (0.5, np.float32(0.25), np.float64(0.125)):
        hub.update_scalar('train/loss', loss)
    hub.update_info_dict(dict(best_score=np.float64(0.7), seed=np.int64(3), order=np.arange(2), kept=[1, 2]))
    checkpoint = dict(message_hub=hub.state_dict())
    PlainStateHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'saved.pth')
    loaded = torch.load(tmp_path / 'saved.pth', weights_only=True)
    PlainStateHook().after_load_checkpoint(None, loaded)
    resumed = MessageHub('resumed')
    resumed.load_state_dict(loaded['message_hub'])
    buffer = resumed.get_scalar('train/loss')
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.data[0].tolist() == [0.5, 0.25, 0.125] and buffer.mean(2) == 0.1875
    assert [resumed.get_info(key) for key in ('best_score', 'seed', 'order', 'kept')] == [0.7, 3, [0, 1], [1, 2]]
