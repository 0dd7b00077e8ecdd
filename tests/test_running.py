import pytest
import torch
from torch import nn

from mmacmix.running import UserError, check_checkpoint


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a two-layer network, and the network."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    path = tmp_path / 'saved.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path), model


def test_a_wrapped_model_is_compared_by_what_is_inside(saved):
    path, model = saved
    check_checkpoint(path, nn.DataParallel(model))


def test_a_checkpoint_of_a_wrapped_model_fits_the_bare_one(saved, tmp_path):
    path = str(tmp_path / 'wrapped.pth')
    torch.save(nn.DataParallel(saved[1]).state_dict(), path)
    check_checkpoint(path, saved[1])


def test_another_head_is_refused_as_a_whole_and_taken_as_a_start(saved):
    path, _ = saved
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    with pytest.raises(UserError, match='checkpoint of another model: shapes differ for 1.weight, 1.bias'):
        check_checkpoint(path, other)
    check_checkpoint(path, other, whole=False)


def test_a_start_of_which_nothing_fits_is_refused(saved):
    with pytest.raises(UserError, match='it lacks weight, bias; the model lacks 0.weight, 0.bias, 1.weight and more'):
        check_checkpoint(saved[0], nn.Linear(4, 8), whole=False)
