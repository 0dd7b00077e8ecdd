"""Files of the format safetensors are read as checkpoints, whatever their name."""

import shutil
import sys

import pytest
import torch
from safetensors import torch as safetensors

from mmacmix.checkpoints import WeightsError, load_checkpoint, state_dict_of
from mmacmix.checkpoints.safetensors_files import safetensors_bytes
from mmacmix.errors import LibraryError

STATE_DICT = dict(a=torch.arange(6.0).view(2, 3), b=torch.ones(2, dtype=torch.bfloat16))


@pytest.mark.parametrize('name', ['weights.safetensors', 'weights.pth'])
@pytest.mark.parametrize('map_location', [None, 'cpu', torch.device('cpu'), lambda storage, location: storage])
def test_a_file_is_read(tmp_path, name, map_location):
    safetensors.save_file(STATE_DICT, tmp_path / name, dict(author='someone'))  # the library itself
    loaded = load_checkpoint(tmp_path / name, map_location)
    assert loaded['meta'] == dict(author='someone')
    found = state_dict_of(loaded)
    assert found.keys() == STATE_DICT.keys()
    assert all(torch.equal(found[key], each) and found[key].dtype == each.dtype for key, each in STATE_DICT.items())


def test_an_address_is_read(tmp_path, monkeypatch):
    safetensors.save_file(STATE_DICT, tmp_path / 'weights.safetensors')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    source = tmp_path / 'weights.safetensors'
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, path: shutil.copy(source, path))
    loaded = load_checkpoint('https://example.org/weights.safetensors')
    assert loaded['state_dict'].keys() == STATE_DICT.keys()


def test_tensors_that_share_memory_and_any_meta_are_written():
    whole = torch.arange(12.0).view(3, 4)
    content = safetensors_bytes(dict(whole=whole, part=whole.T), dict(epoch=3, path='a', object=object))
    loaded = safetensors.load(content)
    assert torch.equal(loaded['whole'], whole) and torch.equal(loaded['part'], whole.T)


@pytest.mark.parametrize('length', [5, 20, 150])
def test_an_incomplete_file_is_named(tmp_path, length):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(safetensors_bytes(STATE_DICT, {})[:length])
    with pytest.raises(WeightsError, match='weights.safetensors cannot be read as a checkpoint') as caught:
        load_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    safetensors.save_file(STATE_DICT, tmp_path / 'weights.safetensors')
    monkeypatch.setitem(sys.modules, 'safetensors', None)  # imports fail
    with pytest.raises(LibraryError, match='pip install safetensors$'):
        load_checkpoint(tmp_path / 'weights.safetensors')
