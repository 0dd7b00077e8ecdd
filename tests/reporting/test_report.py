"""The report of a run shows everything that the run logged, and fetches nothing."""

import base64
import json
import re

import pytest
import torch
from PIL import Image

from mmacmix.backbones import ACmixResNet
from mmacmix.reporting.report import write_report
from tests.tooling import complaint, load


@pytest.fixture
def run(tmp_path):
    """The work directory of a training."""
    lines = [dict(lr=0.1 / step, loss=2.0 / step, loss_cls=1.0, time=0.5, data_time=0.1, step=step) for step in (1, 2)]
    rates = {f'path_weights/backbone.{layer}.conv2/{name}': 0.4 for layer in ('layer1', 'layer2')
             for name in ('attention_rate', 'conv_rate', 'attention_share')}  # fmt: skip
    scores = {'coco/segm_mAP': 0.321, 'coco/disc_precision': 0.4, 'coco/square_precision': float('nan')}
    lines += [scores | dict(step=1), rates | dict(step=2), scores | dict(step=2)]
    (tmp_path / '1' / 'vis_data').mkdir(parents=True)
    (tmp_path / '1' / 'vis_data' / 'scalars.json').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    (tmp_path / 'results.json').write_text(json.dumps(scores))
    for name in ('mine.py', '1/vis_data/config.py'):
        (tmp_path / name).write_text('raise SystemExit("a report must not run code")')
    settings = dict(backbone='ACmixResNet(depth=26)', data='CocoDataset in <data>')
    parameters = dict(attention=12345, rest=5)
    environment = dict(PyTorch='2.x')
    content = dict(config='own', processes=2, batch_size=4, settings=settings)
    (tmp_path / 'run.json').write_text(json.dumps(content | dict(parameters=parameters, environment=environment)))
    (tmp_path / 'images.csv').write_text('image,quality\na.png,0.1\nb.png,0.9\n')
    Image.new('RGB', (30, 20)).save(tmp_path / 'gallery.png')
    return tmp_path


def test_the_page_shows_everything_that_the_run_logged(run):
    page = write_report(run).read_text()
    for text in (
        '0.321',
        'ACmixResNet(depth=26)',
        'CocoDataset in &lt;data&gt;',
        '16 images per second',
        '12,345',
        '12,350',
        '<h1>own</h1>',
        '2.x',
    ):
        assert text in page, text
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    charts = {path.name: path.read_bytes() for path in (run / 'report').iterdir()}
    assert charts.keys() == {
        'losses.png', 'learning_rate.png', 'scores.png', 'classes.png', 'qualities.png', 'path_weights.png',
        'path_weights_over_time.png',
    }  # fmt: skip
    assert {base64.b64decode(picture) for picture in pictures} == {
        *charts.values(), (run / 'gallery.png').read_bytes()
    }  # fmt: skip
    assert 'http' not in page.replace('http-equiv', '')  # nothing is fetched


def test_one_evaluation_is_not_drawn_over_time(run):
    log = run / '1' / 'vis_data' / 'scalars.json'
    log.write_text(
        ''.join(line for line in log.read_text().splitlines(keepends=True) if '"step": 1' not in line or 'lr' in line)
    )
    page = write_report(run).read_text()
    assert not (run / 'report' / 'scores.png').exists() and '0.321' in page


def test_a_run_that_ended_early_has_a_report(run):
    for name in ('results.json', 'run.json', 'images.csv', 'gallery.png', '1/vis_data/config.py'):
        (run / name).unlink()
    log = run / '1' / 'vis_data' / 'scalars.json'
    log.write_text('\n'.join(log.read_text().splitlines()[:2]))
    page = write_report(run).read_text()
    assert 'No evaluation has finished' in page and 'By class' not in page and 'worst' not in page


def test_logs_that_are_cut_off_or_sparse_are_read_and_broken_files_rejected(run):
    log = run / '1' / 'vis_data' / 'scalars.json'
    whole = log.read_text()
    log.write_text(whole[:-30])  # in the middle of the evaluation
    assert 'total</th><td>12,350' in write_report(run).read_text()
    log.write_text('{"lr": 0.1, "step": 1}\n')
    page = write_report(run).read_text()
    assert 'Speed' not in page
    log.write_text('{"lr": 0.1, \n' + whole)
    with pytest.raises(ValueError, match=r'scalars\.json cannot be read, line 1: '):
        write_report(run)
    log.write_text(whole)
    (run / 'results.json').write_text('{')
    with pytest.raises(ValueError, match=r'results\.json cannot be read: '):
        write_report(run)


def test_scores_have_units(run):
    (run / 'results.json').write_text('{"mIoU": 0.91, "coco/bbox_mAP": 0.5, "coco/segm_mAP": NaN}')
    shown = re.findall('<b>(.*?)</b>', write_report(run).read_text())
    assert shown == ['0.91 %', '0.500', 'none']


def test_the_tool_prints_the_path_of_the_report(run, capsys, tmp_path):
    load('report.py').main([str(run)])
    assert str(run / 'report.html') in capsys.readouterr().out
    assert 'holds no training run' in complaint('report.py', [tmp_path / 'nothing'], capsys)


@pytest.mark.parametrize('source', ['run', 'checkpoint'])
def test_the_tool_draws_path_weights(run, source, tmp_path, capsys):
    if source == 'checkpoint':
        run = tmp_path / 'weights.pth'
        torch.save(dict(state_dict=ACmixResNet(26, base_channels=8).state_dict()), run)
    out = tmp_path / 'new' / 'drawn.png'
    load('plot_path_weights.py').main([str(run), '--out', str(out)])
    assert f'of {2 if source == "run" else 8} layers' in capsys.readouterr().out
    assert min(Image.open(out).size) > 200


def test_sources_without_path_weights_are_rejected(tmp_path, capsys):
    torch.save(dict(weight=torch.zeros(1)), tmp_path / 'plain.pth')
    assert 'has neither learned rates' in complaint('plot_path_weights.py', [tmp_path / 'plain.pth'], capsys)
    assert 'there is no checkpoint' in complaint('plot_path_weights.py', [tmp_path / 'none.pth'], capsys)
    assert '--out: must be a .png file' in complaint('plot_path_weights.py', ['x.pth', '--out', 'x.gif'], capsys)
