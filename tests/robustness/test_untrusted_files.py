"""Checkpoints and work directories of somebody else: what is code in them is refused, or left alone, and never runs."""

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmacmix.checkpoints import WeightsError, load_checkpoint
from mmacmix.cli import command_line, load_configs, run
from mmacmix.datasets import write_shapes
from mmacmix.engine import AtomicCheckpointHook
from mmacmix.inference import build_model
from tests.conftest import TINY
from tests.tooling import ROOT, load

REASON = 'cannot be read as a checkpoint: it holds Python objects, which could run code, beside its tensors'
SHORT = {
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 2,
    'train_dataloader.batch_size': 1,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 1,
    **{f'{part}_dataloader.num_workers': 0 for part in ('train', 'val', 'test')},
    **{f'{part}_dataloader.persistent_workers': False for part in ('train', 'val', 'test')},
}
# Models that load a checkpoint by themselves.
MODELS = {
    'backbone': "backbone=dict(init_cfg=dict(type='Pretrained', checkpoint={bad!r}))",
    'whole': "init_cfg=dict(type='Pretrained', checkpoint={bad!r})",
    'neck': "neck=dict(init_cfg=dict(type='Pretrained', checkpoint={bad!r}, prefix='neck.'))",
    'hosts_resnet': "backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=8, init_cfg="
    "dict(type='Pretrained', checkpoint={bad!r})), neck=dict(in_channels=[8, 16, 32, 64])",
    'hosts_pretrained': "backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=8, pretrained={bad!r}), "
    'neck=dict(in_channels=[8, 16, 32, 64])',
    'hosts_swin': "backbone=dict(_delete_=True, type='SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1), "
    "num_heads=(1, 1, 1, 1), convert_weights=True, init_cfg=dict(type='Pretrained', checkpoint={bad!r})), "
    'neck=dict(in_channels=[12, 24, 48, 96])',
    'teacher': 'teacher_ckpt={bad!r}',
}
ROUTES = {
    'train, load_from': 'train.py tiny.py --cfg-options load_from={bad}',
    'train, backbone': 'train.py backbone.py',
    'resume': 'train.py tiny.py --resume {bad}',
    'resume, last checkpoint': 'train.py tiny.py --work-dir noted --resume',
    'test': 'test.py tiny.py {bad}',
    'infer': 'infer.py tiny.py {bad} image.png',
    'export': 'export.py tiny.py {bad} --format torch-export',
    'attention': 'plot_attention.py tiny.py {bad} image.png',
    'path weights': 'plot_path_weights.py {bad}',
    'convert': 'convert_checkpoint.py acmix-resnet {bad} converted.pth',
    'flops, teacher': 'get_flops.py teacher.py',
    'benchmark, teacher': 'benchmark.py detector teacher.py --size 128 128',
}
PROCESSES = ['test', 'infer']  # of their own; compare starts train


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def write_pickle(checkpoint, path):
    path.write_bytes(pickle.dumps(checkpoint))


FORMS = {
    'zip': torch.save,
    'old': partial(torch.save, _use_new_zipfile_serialization=False),
    'pickle': write_pickle,
}


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    """What other tests have switched over is back, and put back afterwards."""
    for name in ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    loaders = dict(CheckpointLoader._schemes)
    for prefix, loader in (('', 'local'), ('http://', 'http'), ('https://', 'http')):
        loaders[prefix] = getattr(mmengine_checkpoint, f'load_from_{loader}')
    monkeypatch.setattr(CheckpointLoader, '_schemes', loaders)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """The data set, the config of a small detector, and a checkpoint as its training would leave it."""
    folder = tmp_path_factory.mktemp('untrusted')
    write_shapes(folder / 'data' / 'shapes', train=2, val=1)
    shutil.copy(next((folder / 'data/shapes/images/val').iterdir()), folder / 'image.png')
    path, options = TINY['mmdet']
    cfg = Config.fromfile(ROOT / path)
    cfg.merge_from_dict(options | SHORT)
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
def marker(place, monkeypatch):
    """What the code in a file would leave. The working directory is the place."""
    monkeypatch.chdir(place)
    monkeypatch.setenv('TORCH_HOME', str(place / 'downloads'))
    path = place / 'ran'
    path.unlink(missing_ok=True)
    return path


def ran(marker):
    """Whether code has run; it can be asked once."""
    there = marker.exists()
    marker.unlink(missing_ok=True)
    return there


@pytest.fixture(params=FORMS)
def bad(request, place, marker):
    """A training's checkpoint with a malicious object in it, which does run where it is loaded without care."""
    path = place / f'{request.param}.pth'
    if not path.exists():
        saved = load_checkpoint(place / 'good.pth')
        FORMS[request.param](saved | dict(extra=Malicious(f'touch {shlex.quote(str(marker))}')), path)
    os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
    if request.param == 'pickle':
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert ran(marker)
    return path


def write_configs(place, bad):
    """What names the checkpoint, beside command lines."""
    for name, model in MODELS.items():
        base = 'distilling.py' if name == 'teacher' else 'tiny.py'
        (place / f'{name}.py').write_text(f"_base_ = '{base}'\nmodel = dict({model.format(bad=str(bad))})\n")
    (place / 'noted').mkdir(exist_ok=True)
    (place / 'noted' / 'last_checkpoint').write_text(str(bad))


def arguments(route, bad):
    tool, *rest = ROUTES[route].format(bad=bad).split()
    return tool, rest


def told(tool, arguments):
    """What a tool ends with, as its own process would."""
    return end(lambda _: load(tool).main(arguments))


def end(main):
    with pytest.raises(SystemExit) as caught:
        run(main)
    return str(caught.value.code)


def start_weights(name):
    """What the Runner does before it trains."""
    build_model(Config.fromfile(f'{name}.py')).init_weights()


def is_one_sentence_about(path, sentence):
    return f'{path} {REASON}' in sentence and len(sentence.splitlines()) == 1


@pytest.mark.parametrize('bad', ['zip'], indirect=True)
@pytest.mark.parametrize('route', sorted(ROUTES.keys() - PROCESSES))
def test_every_tool_refuses_a_checkpoint_that_holds_code(place, bad, marker, route):
    write_configs(place, bad)
    assert is_one_sentence_about(bad, told(*arguments(route, bad)))
    assert not ran(marker)


@pytest.mark.parametrize('bad', ['old', 'pickle'], indirect=True)
@pytest.mark.parametrize('route', ['path weights', 'convert'])
def test_so_it_is_in_older_formats(place, bad, marker, route):
    write_configs(place, bad)
    assert is_one_sentence_about(bad, told(*arguments(route, bad)))
    assert not ran(marker)


@pytest.fixture
def address(place):
    """Where the files of the place can be had."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=place)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.mark.parametrize('bad', ['zip'], indirect=True)
@pytest.mark.parametrize('route', ['resume', 'test'])
def test_so_it_is_with_an_address(place, bad, marker, address, route):
    address = f'{address}/{bad.name}'
    assert is_one_sentence_about(address, told(*arguments(route, address)))
    assert not ran(marker)


@pytest.mark.parametrize('bad', ['zip'], indirect=True)
@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('remote', [False, True], ids=['file', 'address'])
def test_every_model_that_loads_a_checkpoint_refuses_one_that_holds_code(place, bad, marker, address, model, remote):
    name = f'{address}/{bad.name}' if remote else bad
    write_configs(place, name)
    assert is_one_sentence_about(name, end(command_line(lambda _: start_weights(model))))
    assert not ran(marker)


def test_what_holds_data_is_read_wherever_it_is(place, marker, address):
    for name in (place / 'good.pth', f'{address}/good.pth'):
        write_configs(place, name)
        start_weights('whole')
        assert load_checkpoint(name)['meta'] == dict(epoch=0, iter=1)
    with pytest.raises(WeightsError, match=f'{address}/none.pth cannot be read as a checkpoint: HTTPError .* 404'):
        load_checkpoint(f'{address}/none.pth')


@pytest.mark.parametrize('bad', ['zip'], indirect=True)
@pytest.mark.parametrize('route', PROCESSES)
def test_so_it_is_in_a_process_of_its_own(place, bad, marker, route):
    write_configs(place, bad)
    tool, rest = arguments(route, bad)
    command = [sys.executable, ROOT / 'tools' / tool, *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f'{tool}: ') and is_one_sentence_about(bad, last)
    assert not ran(marker)


@pytest.mark.parametrize('bad', ['zip'], indirect=True)
def test_so_it_is_in_the_trainings_that_compare_starts(place, bad, marker):
    write_configs(place, bad)
    sentence = told('compare.py', ['hosts_resnet.py', '--seeds', '1', '--work-dir', 'compared'])
    log = (place / 'compared/hosts_resnet/seed0/train.log').read_text()
    assert sentence.endswith(f'train.log ends with: train.py: {bad} {REASON}') and len(sentence.splitlines()) == 1
    assert 'Traceback' not in log
    assert not ran(marker)


@pytest.mark.parametrize('bad', ['zip', 'old'], indirect=True)
def test_once_switched_over_nobody_in_the_process_runs_it(bad, marker, address):
    """MMEngine's own loaders too, which in the forks read a file that is refused once more."""
    loaders = [torch.load, mmengine_checkpoint.load_from_local, mmengine_checkpoint.load_from_http]
    command_line(lambda argv: None)()
    for loader in loaders:
        path = f'{address}/{bad.name}' if loader is mmengine_checkpoint.load_from_http else bad
        with pytest.raises(pickle.UnpicklingError, match='weights_only|Weights only'):
            loader(path, map_location='cpu')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(bad, weights_only=False)
    assert not ran(marker)


@pytest.mark.parametrize('bad', ['zip'], indirect=True)
def test_tools_that_need_no_weights_leave_those_of_the_config_alone(place, bad, marker, capsys):
    write_configs(place, bad)
    load('get_flops.py').main(['backbone.py', '--shape', '128', '128'])
    assert 'backbone' in capsys.readouterr().out
    assert build_model(Config.fromfile('whole.py')).init_cfg.checkpoint == str(bad)
    assert not ran(marker)


def test_resuming_runs_no_text_of_a_checkpoint_and_removes_nothing_that_it_names(place, marker, tmp_path):
    """A refusal would be wrong here: such a text is data, and checkpoints of MMDetection 2 have one."""
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'file').touch()
    text = f'ran = __import__("os").system({f"touch {shlex.quote(str(marker))}"!r})\n'
    saved = load_checkpoint(place / 'good.pth')
    saved['meta'] |= dict(config=text, cfg=text)
    for name, value in (('cfg', text), ('best_ckpt', str(tmp_path / 'precious')), ('best_score', -1.0)):
        saved['message_hub']['runtime_info'][name] = value
        saved['message_hub']['resumed_keys'][name] = True
    torch.save(saved, place / 'text.pth')
    Config.fromstring(text, '.py')
    assert ran(marker)
    options = ['train_cfg.max_iters=2', 'default_hooks.checkpoint.save_best=coco/segm_mAP']
    options += ['train_cfg.val_interval=2']
    load('train.py').main(['tiny.py', '--work-dir', 'on', '--resume', 'text.pth', '--cfg-options', *options])
    assert not ran(marker)
    assert load_checkpoint('on/iter_2.pth')['meta']['iter'] == 2
    assert len(list((place / 'on').glob('best_*.pth'))) == 1
    assert (tmp_path / 'precious' / 'file').exists()


@pytest.mark.parametrize('named, expected', [
    ('/elsewhere/best_score_iter_1.pth', 'best_score_iter_1.pth'),  # the work directory has been moved
    ('/elsewhere', None),
    ('/elsewhere/best_/..', None),
    ('', None),
])  # fmt: skip
@pytest.mark.parametrize('scores', [['score'], ['score', 'other']])
def test_the_best_checkpoint_so_far_is_one_in_the_work_directory(tmp_path, named, expected, scores):
    hub = MessageHub(f'{named} {scores}')
    for score in scores:
        hub.update_info('best_ckpt' if len(scores) == 1 else f'best_ckpt_{score}', named)
    hook = AtomicCheckpointHook(interval=1, save_best=scores, rule='greater')
    hook.before_train(SimpleNamespace(work_dir=str(tmp_path), message_hub=hub, logger=MMLogger('best')))
    best = [hook.best_ckpt_path] if len(scores) == 1 else list(hook.best_ckpt_path_dict.values())
    assert best == [expected and str(tmp_path / expected)] * len(scores)


@pytest.mark.parametrize('checkpoint', [dict(weight=torch.ones(1)), dict(meta=dict(epoch=0, iter=1)), [1]])
def test_weights_alone_are_nothing_to_go_on_from(marker, tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / 'weights.pth')
    message = 'weights.pth holds no training state to resume'
    assert message in told('train.py', ['tiny.py', '--resume', str(tmp_path / 'weights.pth')])


@pytest.fixture
def work_dir(tmp_path):
    (tmp_path / '1' / 'vis_data').mkdir(parents=True)
    (tmp_path / '1' / 'vis_data' / 'scalars.json').write_text(json.dumps(dict(lr=0.1, loss=1.0, step=1)))
    return tmp_path


def test_a_report_reads_no_code_in_a_work_directory(work_dir, marker):
    code = f'open({str(marker)!r}, "w")'
    for name in ('1/vis_data/config.py', '1/vis_data/base.py', 'mine.py'):
        (work_dir / name).write_text(code)
    exec(code)
    assert ran(marker)
    load('report.py').main([str(work_dir)])
    assert (work_dir / 'report.html').exists() and not ran(marker)
