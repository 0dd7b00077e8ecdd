"""Code in checkpoints of any format never runs, with torch's own reader of data and the one for torch before 2.6."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmacmix.checkpoints import WeightsError, data_pickle, load_checkpoint
from mmacmix.checkpoints.data_pickle import TORCH_IS_OLD, load_data

from .malicious import CODE, REASONS, load_carelessly, write_malicious


@pytest.fixture(params=[True] if TORCH_IS_OLD else [False, True], ids=lambda old: 'pickle' if old else 'torch')
def reader(request, monkeypatch):
    """Which reader is used."""
    monkeypatch.setattr('mmacmix.checkpoints.io.TORCH_IS_OLD', request.param)


@pytest.mark.parametrize('form', REASONS)
def test_code_is_refused(tmp_path, reader, form):
    marker, path = tmp_path / 'ran', tmp_path / 'bad.pth'
    write_malicious(form, dict(state_dict=dict(a=torch.ones(2))), path, marker)
    load_carelessly(form, path)
    assert marker.exists()  # it would run
    marker.unlink()
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f'{path} cannot be read as a checkpoint: {REASONS[form]}'
    assert not marker.exists()


@pytest.mark.parametrize('form', REASONS)
@pytest.mark.parametrize('opened', [False, True])
def test_the_replaced_torch_load_runs_no_code(tmp_path, form, opened):
    marker, path = tmp_path / 'ran', tmp_path / 'bad.pth'
    write_malicious(form, {}, path, marker)
    with path.open('rb') as file, pytest.raises(Exception, match='Unsupported global|TorchScript|.tar'):
        load_data(file if opened else path, weights_only=False)
    assert not marker.exists()


def test_a_name_across_the_border_of_two_chunks_is_found(tmp_path):
    (tmp_path / 'file').write_bytes(bytes((1 << 20) - 5) + b'constants.pkl' + bytes(9))
    with open(tmp_path / 'file', 'rb') as file, pytest.raises(pickle.UnpicklingError, match='TorchScript'):
        load_data(file)


def test_a_tar_archive_that_begins_as_a_pickle_is_refused(tmp_path, reader):
    """Its first member has the name with which files of torch before 1.6 begin."""
    with tarfile.open(tmp_path / 'bad.pth', 'w', format=tarfile.GNU_FORMAT, encoding='latin1') as tar:
        for name in ('\x80\x02storages', 'storages'):
            tar.addfile(tarfile.TarInfo(name))
    assert (tmp_path / 'bad.pth').read_bytes()[0] == 0x80
    with pytest.raises(WeightsError, match='it is a tar archive'):
        load_checkpoint(tmp_path / 'bad.pth')


class Poison:
    """Pickled as a function, which the whole process shares, and an attribute to set there."""

    def __reduce__(self):
        return set, ()


class Poisoner(pickle._Pickler):
    def save_reduce(self, *arguments, obj=None, **named):
        if not isinstance(obj, Poison):
            return super().save_reduce(*arguments, obj=obj, **named)
        self.save(torch._utils._rebuild_tensor)
        self.save((None, dict(poison=1)))
        self.write(pickle.BUILD)


def test_functions_keep_their_attributes():
    file = io.BytesIO()
    Poisoner(file, 2).dump(Poison())
    function = pickle.loads(file.getvalue())
    assert function is torch._utils._rebuild_tensor and function.poison == 1  # carelessly
    del function.poison
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError, match='Unsupported global: the state of a function'):
        data_pickle.load(file)
    assert not hasattr(function, 'poison')


def test_modules_by_reference_are_refused(tmp_path, reader):
    """In files before torch 1.6, torch compares their source code with the installed one."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ('module', 1, 'file.py', 'source') if obj is ... else None

    with (tmp_path / 'bad.pth').open('wb') as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, dict(little_endian=True)):
            pickle.dump(part, file, 2)
        Pickler(file, 2).dump(dict(a=...))
        pickle.dump([], file, 2)
    with pytest.raises(WeightsError, match=CODE):
        load_checkpoint(tmp_path / 'bad.pth')


@pytest.mark.parametrize('zipped', [False, True])
def test_training_states_are_read(tmp_path, reader, zipped):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    info = dict(
        seed=np.int64(3), loss=np.float32(0.5), flags=np.array([True, False]), dtype=np.dtype('float16'),
        shape=torch.Size([2, 3]), device=torch.device('cpu'), type=torch.bfloat16, parts={1, 2}, number=1 + 2j,
        parameter=nn.Parameter(torch.ones(2)), text='ä', bytes=b'\xff\x00', half=torch.ones(3, dtype=torch.half),
    )  # fmt: skip
    saved = dict(state_dict=network.state_dict(), optimizer=optimizer.state_dict(), loss=buffer, info=info)
    torch.save(saved, tmp_path / 'state.pth', _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(tmp_path / 'state.pth')
    assert loaded['loss'].mean() == 1.5 and type(loaded['loss']) is HistoryBuffer
    assert all(torch.equal(each, loaded['state_dict'][name]) for name, each in network.state_dict().items())
    assert loaded['state_dict']._metadata == network.state_dict()._metadata
    moments = {index: each['exp_avg'] for index, each in saved['optimizer']['state'].items()}
    assert len(moments) == 4
    assert all(torch.equal(each, loaded['optimizer']['state'][index]['exp_avg']) for index, each in moments.items())
    for name, value in info.items():
        assert type(loaded['info'][name]) is type(value), name
        assert np.all(loaded['info'][name] == value) if name == 'flags' else str(loaded['info'][name]) == str(value)
