"""Packaging. Configs and tools are included under ``mmacmix/.mim``, where MIM looks for them."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithMim(build_py):
    """Adds configs, tools and the model index to the package: copies, or links if it is editable."""

    def run(self) -> None:
        super().run()
        target = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmacmix' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in ('configs', 'tools', 'model-index.yml'):
            if self.editable_mode:
                (target / name).symlink_to(Path('..', '..', name))
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(ROOT / name, target)


def version() -> str:
    namespace: dict = {}
    exec((ROOT / 'mmacmix' / 'version.py').read_text(), namespace)
    return namespace['__version__']


setup(
    name='mmacmix',
    version=version(),
    description='ACmix, self-attention and convolution in one block, for detection and segmentation with OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmacmix', 'mmacmix.*']),
    package_data={'mmacmix.reporting': ['*.j2']},
    python_requires='>=3.10',
    # MMEngine and MMCV are not required here, as they have several distributions (mmcv, mmcv-lite, onedl-mmcv).
    # Importing the package reports missing ones.
    install_requires=['torch>=2.1', 'numpy', 'jinja2'],
    # The lanes compile mmcv, in C++17, which the headers of torch 2.14 refuse.
    extras_require={
        'openmmlab': [
            'torch<2.14',
            'mmengine>=0.10.7',
            'mmcv==2.1.0',
            'mmdet==3.3.0',
            'mmsegmentation==1.2.2',
            'ftfy',
            'regex',
        ],
        'imagenet': ['mmpretrain==1.2.0'],
        'safetensors': ['safetensors'],
        'timm': ['timm>=0.9.2'],
        'hub': ['huggingface_hub>=0.24', 'safetensors'],
        'export': ['onnx', 'onnxscript', 'onnxruntime'],
        'onedl': [
            'torch<2.14',
            'onedl-mmengine==0.10.12',
            'onedl-mmcv==2.3.6',
            'onedl-mmdetection==3.5.1',
            'onedl-mmsegmentation==1.4.2',
            'ftfy',
            'regex',
        ],
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
