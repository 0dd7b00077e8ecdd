"""Backbones are saved to and loaded from folders of huggingface_hub, and nothing in a folder runs."""

import json
import sys

import pytest
import torch
from huggingface_hub.utils import LocalEntryNotFoundError
from mmengine.registry import MODELS
from safetensors.torch import load_file
from torch import nn

from mmacmix import backbones
from mmacmix.errors import UserError
from mmacmix.integrations import hub
from tests.backbones.test_base import SMALL
from tests.checkpoints.malicious import load_carelessly, write_malicious
from tests.hosts import randomize
from tests.test_versions import without
from tests.tooling import python

SWIN = SMALL['ACmixSwinTransformer']


def saved(name, folder, **arguments):
    """A backbone with random weights and statistics, after it has been saved."""
    network = randomize(getattr(hub, name)(**(SMALL[name] | arguments))).eval()
    network.save_pretrained(folder)
    return network


def change(folder, **arguments):
    """Change arguments in the folder."""
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | arguments))


def test_every_backbone_is_there():
    assert set(hub.__all__) == set(backbones.__all__) - {'ResNet'}
    assert all(issubclass(getattr(hub, name), getattr(backbones, name)) for name in hub.__all__)


@pytest.mark.parametrize('name', SMALL)
def test_a_folder_restores_arguments_and_weights(name, tmp_path):
    network = saved(name, tmp_path, frozen_stages=1)
    loaded = getattr(hub, name).from_pretrained(tmp_path)
    # The backbone itself, from the files of the folder.
    plain = getattr(backbones, name)(**json.loads((tmp_path / 'config.json').read_text()))
    plain.load_state_dict(load_file(tmp_path / 'model.safetensors'))
    plain.eval()
    images = torch.rand(2, 3, 48, 40)
    for expected, *others in zip(network(images), loaded(images), plain(images), strict=True):
        assert all(torch.equal(expected, other) for other in others)
    assert loaded.frozen_stages == 1 and not loaded.training


def test_positional_arguments_are_saved(tmp_path):
    hub.ACmixResNet(26, dict(num_heads=2), base_channels=8).save_pretrained(tmp_path)
    loaded = hub.ACmixResNet.from_pretrained(tmp_path)
    assert loaded.layer1[0].conv2.num_heads == 2 and loaded.conv1.out_channels == 8


def test_a_config_starts_from_the_weights_of_a_folder(tmp_path):
    network = saved('ACmixResNet', tmp_path)
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'model.safetensors'))
    backbone = MODELS.build(dict(type='ACmixResNet', init_cfg=pretrained, **SMALL['ACmixResNet']))
    backbone.init_weights()
    state_dict = backbone.state_dict()
    assert all(torch.equal(tensor, state_dict[name]) for name, tensor in network.state_dict().items())


def test_the_convention_of_converted_weights_is_kept(tmp_path):
    network = hub.ACmixSwinTransformer(**SWIN)
    network.stages[0][1].attn.set_extra_state(torch.tensor(True))
    network.save_pretrained(tmp_path)
    loaded = hub.ACmixSwinTransformer.from_pretrained(tmp_path)
    assert [block.attn.shift_single_window for block in loaded.stages[0]] == [False, True]


def test_weights_that_do_not_fit_are_refused(tmp_path):
    saved('ACmixResNet', tmp_path)
    change(tmp_path, deep_stem=True)
    with pytest.raises(RuntimeError, match=r'stem\.0\.weight'):
        hub.ACmixResNet.from_pretrained(tmp_path)
    assert hub.ACmixResNet.from_pretrained(tmp_path, strict=False).stem is not None


COMMAND = 'import pathlib; pathlib.Path({!r}).touch()'


def test_a_type_in_a_folder_is_not_imported(tmp_path):
    folder, marker = tmp_path / 'folder', tmp_path / 'marker'
    saved('ACmixSwinTransformer', folder)
    command = [sys.executable, '-c', COMMAND.format(str(marker))]
    evil = dict(type='subprocess.check_call', popenargs=command)
    change(folder, act_cfg=dict(type='subprocess.run', args=command))
    with pytest.raises(UserError, match="a type in act_cfg must be .* got 'subprocess.run'"):
        hub.ACmixSwinTransformer.from_pretrained(folder)
    change(folder, act_cfg=dict(type='GELU'), acmix=dict(nested=[evil]))
    with pytest.raises(UserError, match="a type in acmix must be .* got 'subprocess.check_call'"):
        hub.ACmixSwinTransformer.from_pretrained(folder)
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017 (what MMEngine raises once it has run the command)
        backbones.ACmixSwinTransformer(**SWIN, act_cfg=dict(type='subprocess.run', args=command))
    assert marker.exists()  # the folder was dangerous


@pytest.mark.parametrize('kind', ['ACmixResNet', 'ConvModuleX', 'this', ['BN'], None])
def test_only_layers_are_built_from_a_folder(tmp_path, kind):
    saved('ACmixSwinTransformer', tmp_path)
    change(tmp_path, norm_cfg=dict(type=kind))
    with pytest.raises(UserError, match='a type in norm_cfg must be'):
        hub.ACmixSwinTransformer.from_pretrained(tmp_path)


def test_a_folder_names_no_further_checkpoint(tmp_path):
    saved('ACmixResNet', tmp_path)
    change(tmp_path, init_cfg=dict(type='Pretrained', checkpoint='https://example.org/weights.pth'))
    with pytest.raises(UserError, match='takes no init_cfg'):
        hub.ACmixResNet.from_pretrained(tmp_path)


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_a_pickle_in_a_folder_is_not_read(tmp_path, name):
    saved('ACmixResNet', tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    marker = tmp_path / 'marker'
    write_malicious('zip', {}, tmp_path / name, marker)
    with pytest.raises(Exception, match='safetensors|header'):
        hub.ACmixResNet.from_pretrained(tmp_path)
    assert not marker.exists()
    load_carelessly('zip', tmp_path / name)
    assert marker.exists()  # the file was dangerous


def test_a_pickle_in_a_repository_is_not_read(tmp_path, monkeypatch):
    saved('ACmixResNet', tmp_path)
    marker = tmp_path / 'marker'
    write_malicious('torchscript', {}, tmp_path / 'pytorch_model.bin', marker)

    def download(repo_id, filename, **_):
        if filename == 'model.safetensors':
            raise LocalEntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr('huggingface_hub.hub_mixin.hf_hub_download', download)
    with pytest.raises(UserError, match=r'must be in the format safetensors, .* there is .*pytorch_model\.bin'):
        hub.ACmixResNet.from_pretrained('somebody/acmix')
    assert not marker.exists()


@pytest.mark.parametrize('value', [dict(type=nn.ReLU), {1, 2}, torch.float32])
def test_an_argument_that_a_folder_could_not_hold_is_refused(value):
    with pytest.raises(UserError, match='act_cfg must be plain data'):
        hub.ACmixSwinTransformer(**SWIN, act_cfg=value)
    with pytest.raises(UserError, match='acmix must be plain data'):
        hub.ACmixResNet(26, dict(backend=value))


def test_huggingface_hub_is_imported_only_when_asked_for():
    done = python("""
        import sys
        import mmacmix
        assert not {'huggingface_hub', 'mmacmix.integrations'} & set(sys.modules)
        import mmacmix.integrations
        assert 'huggingface_hub' not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


def test_a_missing_huggingface_hub_is_named():
    done = without('huggingface_hub', code='import mmacmix.integrations.hub')
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('mmacmix.errors.LibraryError: mmacmix needs huggingface_hub')
    assert last.endswith('`pip install huggingface_hub safetensors`.')
