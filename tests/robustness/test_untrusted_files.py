"""Code in checkpoints and work directories from others never runs: it is refused or ignored."""

import json
import pickle
import shlex
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmacmix.checkpoints import WeightsError, load_checkpoint
from mmacmix.cli import command_line, load_configs, run
from mmacmix.datasets import write_shapes
from mmacmix.engine import AtomicCheckpointHook
from mmacmix.inference import build_model
from tests.checkpoints.malicious import REASONS, load_carelessly, write_malicious
from tests.conftest import SINGLE, needs_torch, tiny_config
from tests.tooling import ROOT, load, start

REFUSAL = 'weights_only|Weights only|Unsupported global|TorchScript|.tar format'  # torch's words, and ours
SHORT = {
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 1,
    **SINGLE,
}
# Models that load a checkpoint themselves.
LOADING_MODELS = {
    'backbone': "backbone=dict(init_cfg=dict(type='Pretrained', checkpoint={path!r}))",
    'whole': "init_cfg=dict(type='Pretrained', checkpoint={path!r})",
    'neck': "neck=dict(init_cfg=dict(type='Pretrained', checkpoint={path!r}, prefix='neck.'))",
    'hosts_resnet': "backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=8, init_cfg="
    "dict(type='Pretrained', checkpoint={path!r})), neck=dict(in_channels=[8, 16, 32, 64])",
    'hosts_pretrained': "backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=8, pretrained={path!r}), "
    'neck=dict(in_channels=[8, 16, 32, 64])',
    'hosts_swin': "backbone=dict(_delete_=True, type='SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1), "
    "num_heads=(1, 1, 1, 1), convert_weights=True, init_cfg=dict(type='Pretrained', checkpoint={path!r})), "
    'neck=dict(in_channels=[12, 24, 48, 96])',
    'teacher': 'teacher_ckpt={path!r}',
}
ROUTES = {
    'train, load_from': 'train.py tiny.py --cfg-options load_from={path}',
    'train, backbone': 'train.py backbone.py',
    'resume': 'train.py tiny.py --resume {path}',
    'resume, last checkpoint': 'train.py tiny.py --work-dir noted --resume',
    'test': 'test.py tiny.py {path}',
    'infer': 'infer.py tiny.py {path} image.png',
    'export': 'export.py tiny.py {path} --format torch-export',
    'attention': 'plot_attention.py tiny.py {path} image.png',
    'path weights': 'plot_path_weights.py {path}',
    'convert': 'convert_checkpoint.py acmix-resnet {path} converted.pth',
    'flops, teacher': 'get_flops.py teacher.py',
    'benchmark, teacher': 'benchmark.py detector teacher.py --size 128 128',
}
MARKS = {'export': needs_torch('2.6', 'exporting a network')}
SEPARATE = ['test', 'infer']  # in processes of their own
SPECIAL = ['compare.py', 'report.py']  # have tests of their own
WITHOUT_CHECKPOINTS = ['convert_pennfudan.py', 'gpu_check.py', 'launch.py', 'make_shapes.py', 'openmp.py', 'zoo.py']
SWIN = dict(type='ACmixSwinTransformer', arch=dict(embed_dims=8, depths=[1], num_heads=[1]), out_indices=[0])
PVT = dict(type='ACmixPyramidVisionTransformer', arch=dict(depths=[1], embed_dims=[8]), out_indices=[0])
BACKBONES = {
    'ResNet': dict(type='ACmixResNet', depth=26, base_channels=8),
    'X-volution': dict(type='XVolutionResNet', depth=26, base_channels=8),
    'LESA': dict(type='LESAResNet', depth=26, base_channels=16),
    'SAN': dict(type='ACmixSAN', depth=10, base_channels=32),
    'Swin': SWIN,
    'Swin, converted': SWIN | dict(convert_weights=True),
    'PVT': PVT,
    'PVT, converted': PVT | dict(convert_weights=True),
}


LOAD = torch.load


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    """Undo what command lines in this process have switched over."""
    for name in ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    loaders = dict(CheckpointLoader._schemes)
    for prefix, loader in (('', 'local'), ('http://', 'http'), ('https://', 'http')):
        loaders[prefix] = getattr(mmengine_checkpoint, f'load_from_{loader}')
    monkeypatch.setattr(CheckpointLoader, '_schemes', loaders)
    monkeypatch.setattr(torch, 'load', LOAD)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the data set, the config of a small detector, and a checkpoint of its training."""
    folder = tmp_path_factory.mktemp('untrusted')
    write_shapes(folder / 'data' / 'shapes', train=2, val=1)
    shutil.copy(next((folder / 'data/shapes/images/val').iterdir()), folder / 'image.png')
    cfg = tiny_config('mmdet', SHORT)
    cfg.dump(folder / 'tiny.py')
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    saved = dict(state_dict=build_model(cfg).state_dict(), meta=dict(epoch=0, iter=1), message_hub=hub)
    torch.save(saved, folder / 'good.pth')
    (distilling,) = load_configs(['mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py'], []).values()
    distilling = distilling.model
    distilling.teacher_config = 'tiny.py'
    distilling.backbone.init_cfg = None
    Config(cfg.to_dict() | dict(model=distilling)).dump(folder / 'distilling.py')
    return folder


@pytest.fixture
def marker(folder, monkeypatch):
    """The file that malicious code would create. The folder becomes the working directory."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv('TORCH_HOME', str(folder / 'downloads'))
    path = folder / 'ran'
    path.unlink(missing_ok=True)
    return path


def ran(marker):
    """Whether code has run since the last call."""
    exists = marker.exists()
    marker.unlink(missing_ok=True)
    return exists


@pytest.fixture
def malicious(request, folder, marker):
    """A training checkpoint with a malicious object, which runs when loaded carelessly."""
    form = getattr(request, 'param', 'zip')
    path = folder / f'{form}.pth'
    if not path.exists():
        write_malicious(form, load_checkpoint(folder / 'good.pth'), path, marker)
    load_carelessly(form, path)
    assert ran(marker)
    return path


def write_configs(folder, malicious):
    """Write every file that names the checkpoint."""
    for name, model in LOADING_MODELS.items():
        base = 'distilling.py' if name == 'teacher' else 'tiny.py'
        (folder / f'{name}.py').write_text(f"_base_ = '{base}'\nmodel = dict({model.format(path=str(malicious))})\n")
    (folder / 'noted').mkdir(exist_ok=True)
    (folder / 'noted' / 'last_checkpoint').write_text(str(malicious))


def arguments(route, malicious):
    tool, *rest = ROUTES[route].format(path=malicious).split()
    return tool, rest


def last_words(tool, arguments):
    """The message that ends a tool."""
    return end(lambda _: load(tool).main(arguments))


def end(main):
    with pytest.raises(SystemExit) as caught:
        run(main)
    return str(caught.value.code)


def init_weights(name):
    """Initialise a model as the Runner does before training."""
    build_model(Config.fromfile(f'{name}.py')).init_weights()


def is_refusal(path, sentence):
    reason = REASONS[Path(path).stem]
    return f'{path} cannot be read as a checkpoint: {reason}' in sentence and len(sentence.splitlines()) == 1


@pytest.mark.parametrize(
    'route', [pytest.param(route, marks=MARKS.get(route, ())) for route in sorted(ROUTES.keys() - SEPARATE)]
)
def test_every_tool_refuses_a_checkpoint_with_code(folder, malicious, marker, route, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # the user's environment weakens nothing
    write_configs(folder, malicious)
    assert is_refusal(malicious, last_words(*arguments(route, malicious)))
    assert not ran(marker)


def test_these_are_all_tools():
    tools = {route.split()[0] for route in ROUTES.values()} | {*SPECIAL, *WITHOUT_CHECKPOINTS}
    assert tools == {path.name for path in (ROOT / 'tools').glob('*.py')}


@pytest.mark.parametrize('malicious', sorted(REASONS.keys() - {'zip'}), indirect=True)
@pytest.mark.parametrize('route', ['path weights', 'convert', 'train, load_from', 'resume'])
def test_code_in_other_formats_is_refused(folder, malicious, marker, route):
    write_configs(folder, malicious)
    assert is_refusal(malicious, last_words(*arguments(route, malicious)))
    assert not ran(marker)


@pytest.fixture
def address(folder):
    """A web server for the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.mark.parametrize('route', ['resume', 'test'])
def test_code_in_a_downloaded_checkpoint_is_refused(folder, malicious, marker, address, route):
    address = f'{address}/{malicious.name}'
    assert is_refusal(address, last_words(*arguments(route, address)))
    assert not ran(marker)


@pytest.mark.parametrize('model', LOADING_MODELS)
@pytest.mark.parametrize('remote', [False, True], ids=['file', 'address'])
def test_every_model_that_loads_a_checkpoint_refuses_one_with_code(folder, malicious, marker, address, model, remote):
    name = f'{address}/{malicious.name}' if remote else malicious
    write_configs(folder, name)
    assert is_refusal(name, end(command_line(lambda _: init_weights(model))))
    assert not ran(marker)


@pytest.mark.parametrize('forced', [False, True])
@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_refuse_code_without_a_command_line_too(malicious, marker, name, forced, monkeypatch):
    if forced:
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    network = MODELS.build(BACKBONES[name] | dict(init_cfg=dict(type='Pretrained', checkpoint=str(malicious))))
    with pytest.raises(WeightsError) as caught:
        network.init_weights()
    assert is_refusal(malicious, str(caught.value)) and not ran(marker)


@pytest.mark.parametrize('malicious', ['zip', 'old'], indirect=True)
def test_a_detector_refuses_code_for_its_backbone_without_a_command_line_too(folder, malicious, marker):
    write_configs(folder, malicious)
    with pytest.raises(WeightsError) as caught:
        init_weights('backbone')
    assert is_refusal(malicious, str(caught.value)) and not ran(marker)


def test_checkpoints_without_code_are_read_from_files_and_addresses(folder, marker, address):
    for name in (folder / 'good.pth', f'{address}/good.pth'):
        write_configs(folder, name)
        init_weights('whole')
        assert load_checkpoint(name)['meta'] == dict(epoch=0, iter=1)
    with pytest.raises(WeightsError, match=f'{address}/none.pth cannot be read as a checkpoint: HTTPError .* 404'):
        load_checkpoint(f'{address}/none.pth')


@pytest.mark.parametrize('route', SEPARATE)
def test_tools_in_a_process_of_their_own_refuse_a_checkpoint_with_code(folder, malicious, marker, route):
    write_configs(folder, malicious)
    tool, rest = arguments(route, malicious)
    done = start(ROOT / 'tools' / tool, *rest, cwd=folder, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'{tool}: ') and is_refusal(malicious, last)
    assert not ran(marker)


def test_trainings_started_by_compare_refuse_a_checkpoint_with_code(folder, malicious, marker):
    write_configs(folder, malicious)
    sentence = last_words('compare.py', ['hosts_resnet.py', '--seeds', '1', '--work-dir', 'compared'])
    log = (folder / 'compared/hosts_resnet/seed0/train.log').read_text()
    assert is_refusal(malicious, sentence) and f'train.log ends with: train.py: {malicious} ' in sentence
    assert 'Traceback' not in log
    assert not ran(marker)


@pytest.mark.parametrize('malicious', ['zip', 'old', 'torchscript', 'tar'], indirect=True)
def test_in_a_command_line_no_loader_runs_code(malicious, marker, address):
    """Including MMEngine's own, some versions of which retry a refused file without care."""
    command_line(lambda argv: None)()
    for loader in (torch.load, mmengine_checkpoint.load_from_local, mmengine_checkpoint.load_from_http):
        path = f'{address}/{malicious.name}' if loader is mmengine_checkpoint.load_from_http else malicious
        with pytest.raises((pickle.UnpicklingError, RuntimeError), match=REFUSAL):
            loader(path, map_location='cpu')
    with pytest.raises((pickle.UnpicklingError, RuntimeError), match=REFUSAL):
        torch.load(malicious, weights_only=False)
    assert not ran(marker)


def test_tools_without_need_for_weights_ignore_those_of_the_config(folder, malicious, marker, capsys):
    write_configs(folder, malicious)
    load('get_flops.py').main(['backbone.py', '--shape', '128', '128'])
    assert 'backbone' in capsys.readouterr().out
    assert build_model(Config.fromfile('whole.py')).init_cfg.checkpoint == str(malicious)
    assert not ran(marker)


def test_resuming_neither_runs_the_text_of_a_config_nor_removes_the_best_checkpoint_it_names(folder, marker, tmp_path):
    """The text is data, which checkpoints of MMDetection 2 hold, so they are not refused."""
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'file').touch()
    text = f'ran = __import__("os").system({f"touch {shlex.quote(str(marker))}"!r})\n'
    saved = load_checkpoint(folder / 'good.pth')
    saved['meta'] |= dict(config=text, cfg=text)
    for name, value in (('cfg', text), ('best_ckpt', str(tmp_path / 'precious')), ('best_score', -1.0)):
        saved['message_hub']['runtime_info'][name] = value
        saved['message_hub']['resumed_keys'][name] = True
    torch.save(saved, folder / 'text.pth')
    Config.fromstring(text, '.py')
    assert ran(marker)
    options = ['train_cfg.max_iters=2', 'default_hooks.checkpoint.save_best=coco/segm_mAP']
    options += ['train_cfg.val_interval=2']
    load('train.py').main(['tiny.py', '--work-dir', 'on', '--resume', 'text.pth', '--cfg-options', *options])
    assert not ran(marker)
    assert load_checkpoint('on/iter_2.pth')['meta']['iter'] == 2
    assert len(list((folder / 'on').glob('best_*.pth'))) == 1
    assert (tmp_path / 'precious' / 'file').exists()


@pytest.mark.parametrize('named, expected', [
    ('/elsewhere/best_score_iter_1.pth', 'best_score_iter_1.pth'),  # the work directory has been moved
    ('/elsewhere', None),
    ('/elsewhere/best_/..', None),
    ('', None),
])  # fmt: skip
@pytest.mark.parametrize('scores', [['score'], ['score', 'other']])
def test_the_best_checkpoint_is_looked_up_in_the_work_directory(tmp_path, named, expected, scores):
    hub = MessageHub(f'{named} {scores}')
    for score in scores:
        hub.update_info('best_ckpt' if len(scores) == 1 else f'best_ckpt_{score}', named)
    hook = AtomicCheckpointHook(interval=1, save_best=scores, rule='greater')
    hook.before_train(SimpleNamespace(work_dir=str(tmp_path), message_hub=hub, logger=MMLogger('best')))
    best = [hook.best_ckpt_path] if len(scores) == 1 else list(hook.best_ckpt_path_dict.values())
    assert best == [expected and str(tmp_path / expected)] * len(scores)


@pytest.mark.parametrize('checkpoint', [dict(weight=torch.ones(1)), dict(meta=dict(epoch=0, iter=1)), [1]])
def test_weights_without_training_state_are_not_resumed(marker, tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / 'weights.pth')
    message = 'weights.pth holds no training state to resume'
    assert message in last_words('train.py', ['tiny.py', '--resume', str(tmp_path / 'weights.pth')])


@pytest.fixture
def work_dir(tmp_path):
    (tmp_path / '1' / 'vis_data').mkdir(parents=True)
    (tmp_path / '1' / 'vis_data' / 'scalars.json').write_text(json.dumps(dict(lr=0.1, loss=1.0, step=1)))
    return tmp_path


def test_a_report_runs_no_code_of_a_work_directory(work_dir, marker):
    code = f'open({str(marker)!r}, "w")'
    for name in ('1/vis_data/config.py', '1/vis_data/base.py', 'mine.py'):
        (work_dir / name).write_text(code)
    exec(code)
    assert ran(marker)
    load('report.py').main([str(work_dir)])
    assert (work_dir / 'report.html').exists() and not ran(marker)
