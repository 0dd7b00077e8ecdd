"""What MMEngine dumps is read as what was dumped. That no code of it runs: tests/robustness/test_untrusted_files.py."""

import pytest
from mmengine.config import Config

from mmacmix.reporting.dumped_config import read_dumped_config
from tests.tooling import ROOT


@pytest.mark.parametrize('name', ['maskrcnn_acmix.py', 'upernet_acmix.py', 'shapes/mask-rcnn_acmix-r26_shapes.py'])
def test_a_config_is_read_as_it_was_dumped(tmp_path, name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    cfg.dump(tmp_path / 'config.py')
    assert read_dumped_config(tmp_path / 'config.py') == cfg.to_dict()


def test_so_is_every_kind_of_value(tmp_path):
    values = dict(
        numbers=[0, -1, 1e-05, -2.5, 10**20, True, False, None, 1 + 2j],
        strings=['', 'it\'s "so"', 'two\nlines', 'a \\ b', 'ü', 'long ' * 40],
        nested=dict(a=dict(), b=[], c=(), d=((1,), [2, dict(e=3)]), f={1, 2}),
        mapping={'not a name': {'0.5': 1}, 7: dict(x=1)},
    )
    Config(values).dump(tmp_path / 'config.py')
    assert read_dumped_config(tmp_path / 'config.py') == values


def test_what_was_printed_is_a_number_or_a_string(tmp_path):
    """Configs may hold classes, and numbers whose printed form is no literal."""
    (tmp_path / 'config.py').write_text('low = -inf\nhigh = dict(to=[inf, nan])\ntype = torch.nn.GELU\n')
    assert repr(read_dumped_config(tmp_path / 'config.py')) == (
        "{'low': -inf, 'high': {'to': [inf, nan]}, 'type': 'torch.nn.GELU'}"
    )


@pytest.mark.parametrize('text, reason', [
    pytest.param('a = 1\nb = f(2)\n', 'line 2 holds something else than values, which could be code', id='call'),
    pytest.param('a = {[]: 1}\n', 'line 1 holds something else than values', id='unhashable'),
    pytest.param('a = {\n', "'{' was never closed", id='cut off'),
    pytest.param('a = "\0"\n', 'null bytes', id='binary'),
    pytest.param('a = ' + '-' * 100_000 + '1\n', 'nested too deeply|recursion', id='deep'),
    pytest.param('a = ' + '[' * 10_000 + '\n', 'too many nested parentheses', id='open'),
])  # fmt: skip
def test_what_cannot_be_read_is_told(tmp_path, text, reason):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'{path} cannot be read as the settings of a run: .*({reason})') as caught:
        read_dumped_config(path)
    assert len(str(caught.value).splitlines()) == 1
