"""The package can be imported with torch alone; missing, old or broken libraries are named."""

import pytest

from tests.tooling import python

WITHOUT = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition('.')[0] in {names}:
                raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

    sys.meta_path.insert(0, Refuse())
"""


def without(*names, code):
    """Run code in an interpreter that cannot import these packages."""
    return python(WITHOUT.format(names=names), code)


def test_importing_needs_neither_mmdet_nor_mmseg_nor_compiled_operators():
    done = python("""
        import sys
        import mmacmix
        from mmengine.registry import MODELS
        assert {'ACmix', 'ACmixResNet', 'LESA', 'XVolution'} <= set(MODELS.module_dict)
        loaded = [name for name in ('mmdet', 'mmseg', 'mmcv.ops', 'mmcv._ext') if name in sys.modules]
        assert not loaded, loaded
    """)
    assert done.returncode == 0, done.stderr


def test_operators_and_layers_need_only_torch():
    done = without(
        'mmengine',
        'mmcv',
        'mmdet',
        'mmseg',
        'cv2',
        'matplotlib',
        code="""
        import torch
        import mmacmix
        from mmacmix import layers, ops
        from mmacmix.deploy import fuse
        made = {
            'ACmix': (8, 8), 'LESA': (16, 16), 'XVolution': (8, 8), 'PatchwiseACmix': (8, 8), 'ShiftConv': None,
            'SpatialReductionACmix': (8, 2, 2), 'WindowACmix': (8, 2, 4, 2),
        }
        abstract = {'CONV_LAYERS', 'FusedACmix', 'FusedXVolution', 'Macs', 'MixingLayer', 'TwoPaths', 'pad_to_patch'}
        assert set(layers.__all__) == made.keys() | abstract
        for name, arguments in made.items():
            if arguments:
                layer = getattr(layers, name)(*arguments)
                shape = (2, 9, 11, 8) if name in ('SpatialReductionACmix', 'WindowACmix') else (2, arguments[0], 9, 11)
                x = torch.rand(shape, requires_grad=True)
                layer(x).square().sum().backward()
                assert x.grad.isfinite().all() and all(p.grad is not None for p in layer.parameters()), name
                fuse(layer)(x)
        query = torch.rand(1, 1, 2, 4, 4)
        for backend in ops.available_backends():
            ops.neighborhood_attention(query, query, query, backend=backend)
    """,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', ['mmengine', 'mmcv'])
@pytest.mark.parametrize('statement', ['mmacmix.backbones', 'from mmacmix.engine import resume'])
def test_a_missing_library_is_named(name, statement):
    done = without(
        name,
        code=f"""
        import mmacmix
        {statement}
    """,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert (
        last.startswith(f'mmacmix.errors.LibraryError: mmacmix needs {name}')
        and 'make setup' in last
        and 'pip install' in last
    )


def test_a_library_that_is_too_old_is_named():
    done = python("""
        import mmengine
        mmengine.__version__ = '0.7.0'
        import mmacmix
    """)
    assert done.stderr.strip().endswith('mmacmix needs mmengine 0.10.0 or newer, found 0.7.0.')


def test_a_library_that_is_broken_is_named():
    done = without('addict', code='import mmacmix')
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mmacmix.errors.LibraryError: mmacmix needs mmengine (No module named 'addict'")
