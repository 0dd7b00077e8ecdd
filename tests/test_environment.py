import subprocess
import sys
import textwrap
import types

import pytest
import torch

from mmacmix.environment import load_checkpoint, state_dict_of


def python(code):
    return subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, check=False)


def test_importing_needs_neither_mmdet_nor_mmseg_nor_compiled_operators():
    done = python("""
        import sys
        import mmacmix
        from mmengine.registry import MODELS
        assert {'ACmix', 'ACmixResNet'} <= set(MODELS.module_dict)
        loaded = [name for name in ('mmdet', 'mmseg', 'mmcv.ops', 'mmcv._ext') if name in sys.modules]
        assert not loaded, loaded
    """)
    assert done.returncode == 0, done.stderr


def test_operators_need_torch_alone():
    done = python("""
        import importlib.util, sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition('.')[0] in ('mmengine', 'mmcv', 'mmdet', 'mmseg'):
                    raise ImportError(name)
        sys.meta_path.insert(0, Refuse())
        # The package itself needs MMEngine; its operators, loaded on their own, do not.
        path = importlib.util.find_spec('mmacmix').submodule_search_locations[0]
        spec = importlib.util.spec_from_file_location('ops', path + '/ops/__init__.py',
                                                      submodule_search_locations=[path + '/ops'])
        ops = importlib.util.module_from_spec(spec)
        sys.modules['ops'] = ops
        spec.loader.exec_module(ops)
        import torch
        q = torch.rand(1, 1, 2, 4, 4)
        assert ops.neighborhood_attention(q, q, q).shape == q.shape
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', ['mmengine', 'mmcv'])
def test_a_missing_library_is_named_with_what_to_do(name):
    done = python(f"""
        import sys
        sys.modules['{name}'] = None
        import mmacmix
    """)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert f'mmacmix needs {name}' in last and 'make setup' in last and 'pip install' in last


def test_a_library_that_is_too_old_is_named():
    done = python("""
        import mmengine
        mmengine.__version__ = '0.7.0'
        import mmacmix
    """)
    assert done.stderr.strip().endswith('mmacmix needs mmengine 0.10.0 or newer, found 0.7.0.')


class ReachOut:
    """Asks for an attribute through which the file could reach anything."""

    def __reduce__(self):
        from mmengine.logging import HistoryBuffer

        return getattr, (HistoryBuffer, '__init__')


def test_only_a_log_buffers_own_statistics_can_be_looked_up(tmp_path):
    torch.save(ReachOut(), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='could run code'):
        load_checkpoint(tmp_path / 'bad.pth')


def test_a_training_state_of_mmengine_is_read(tmp_path):
    from mmengine.logging import HistoryBuffer

    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    buffer.update(3.0)
    torch.save(dict(state_dict=dict(a=torch.ones(2)), message_hub=dict(loss=buffer)), tmp_path / 'state.pth')
    loaded = load_checkpoint(tmp_path / 'state.pth')
    assert loaded['message_hub']['loss'].mean() == 2
    assert state_dict_of(loaded)['a'].tolist() == [1, 1]


def test_a_checkpoint_of_swins_original_repository_is_read_with_its_settings(tmp_path, monkeypatch):
    module = types.ModuleType('yacs.config')

    class CfgNode(dict):
        """As in yacs: a dictionary with an attribute of its own."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.__dict__['__immutable__'] = True

    CfgNode.__module__, CfgNode.__qualname__, module.CfgNode = 'yacs.config', 'CfgNode', CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = CfgNode(dict(MODEL=CfgNode(dict(NAME='swin'))))
    torch.save(dict(model=dict(a=torch.ones(1)), config=config, epoch=3), tmp_path / 'swin.pth')
    loaded = load_checkpoint(tmp_path / 'swin.pth')
    assert type(loaded['config']) is not CfgNode and loaded['config']['MODEL']['NAME'] == 'swin'
    assert state_dict_of(loaded)['a'] == 1


def test_missing_and_broken_files_are_named(tmp_path):
    (tmp_path / 'broken.pth').write_bytes(b'not a checkpoint')
    torch.save(dict(a=torch.ones(100)), tmp_path / 'half.pth')
    whole = (tmp_path / 'half.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(whole[: len(whole) // 2])
    for name, reason in (('absent.pth', 'there is no checkpoint'), ('broken.pth', 'no file that torch.save writes')):
        with pytest.raises(ValueError, match=reason) as caught:
            load_checkpoint(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ValueError, match=r'half\.pth cannot be read'):
        load_checkpoint(tmp_path / 'half.pth')


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(state_dict=s, meta={}), lambda s: dict(model=s)])
def test_state_dict_is_found_however_it_is_wrapped(wrap):
    assert state_dict_of(wrap(dict(a=torch.ones(1)))).keys() == {'a'}


@pytest.mark.parametrize('thing', [{}, [1], dict(epoch=3), dict(state_dict={})])
def test_something_else_is_no_checkpoint(thing):
    with pytest.raises(ValueError, match=r'x\.pth holds no state dict'):
        state_dict_of(thing, 'x.pth')
