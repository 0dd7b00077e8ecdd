"""Inference with a trained network on single images."""

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, VISUALIZERS, Registry
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..checkpoints import load_checkpoint, state_dict_of
from ..checkpoints.io import check_fit
from ..datasets import innermost
from ..deploy import fuse
from ..errors import UserError, first_line
from ..reporting.attention_maps import observed_attention
from ..reporting.legend import add_legend, colors_of_classes
from .model import build_model


class Predictor:
    """A detector or segmentor with the weights of a checkpoint.

    Images are ``(H, W, 3)`` uint8, BGR. They pass through the pipeline of ``test_dataloader``, that of the first data
    set if it has several.

    Args:
        cfg: The config, as returned by ``mmacmix.cli.load_config``.
        checkpoint: The checkpoint.
        device: A torch device. Default: ``'cpu'``.
        fused: Merge layers for speed, see ``mmacmix.deploy.fuse``. Default: False.

    Raises:
        UserError: The config does not describe a detector or segmentor, the checkpoint does not fit it, or the device
            is not available.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str = 'cpu', fused: bool = False) -> None:
        if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
            raise UserError(f'{cfg.filename} has neither a detector nor a segmentor')
        if not cfg.get('test_dataloader'):
            raise UserError(f'{cfg.filename} has no test_dataloader, whose pipeline prepares the images')
        model = revert_sync_batchnorm(build_model(cfg))
        saved = load_checkpoint(checkpoint)
        state_dict = state_dict_of(saved, checkpoint)
        check_fit(state_dict, model, checkpoint)
        model.load_state_dict(state_dict)
        model.eval()
        try:
            model = model.to(device)  # before fusing, which depends on the device
            self.model = fuse(model) if fused else model
        except (AssertionError, RuntimeError) as error:  # unknown name, or not in this build of torch
            raise UserError(f'device {device}: {first_line(error)}') from error
        dataset = next(innermost(cfg.test_dataloader.dataset))
        #: ``classes`` and ``palette``, from the checkpoint if it has them, else from the config's data set.
        self.dataset_meta = {
            **_host_class(DATASETS, dataset.type).METAINFO,
            **dataset.get('metainfo', {}),
            **saved.get('meta', {}).get('dataset_meta', {}),
        }
        steps = [step for step in dataset.pipeline if 'Annotations' not in step['type']]
        self.pipeline = Compose([{**steps[0], 'type': 'LoadImageFromNDArray'}, *steps[1:]])
        self._visualizer = _host_class(VISUALIZERS, cfg.visualizer.type)()
        self._visualizer.dataset_meta = self.dataset_meta

    def __call__(self, image: np.ndarray) -> BaseDataElement:
        """The prediction for an image: a sample with ``pred_instances`` or ``pred_sem_seg``.

        Raises:
            ValueError: The image has another shape or dtype.
        """
        with torch.no_grad():
            return self.model.test_step(pseudo_collate([self.prepare(image)]))[0]

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Run the pipeline on an image; returns ``inputs`` and ``data_samples``."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f'image must be (H, W, 3) uint8, got {image.shape} {image.dtype}')
        return self.pipeline(dict(img=image, img_id=0))

    def attention_maps(
        self, image: np.ndarray, pixel: tuple[int, int]
    ) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """Attention maps of a pixel, given as x and y, in all layers with attention.

        Returns:
            Maps ``(heads, h, w)`` by layer name, see ``mmacmix.layers.MixingLayer.attention_map``, and the width and
            height that they cover, in pixels of the image; padding makes these larger than the image.
        """
        data = self.model.data_preprocessor(pseudo_collate([self.prepare(image)]), False)
        scales = [new / old for new, old in zip(data['data_samples'][0].img_shape, image.shape[:2], strict=True)]
        height, width = (side / scale for side, scale in zip(data['inputs'].shape[2:], scales, strict=True))
        position = (pixel[1] + 0.5) / height, (pixel[0] + 0.5) / width
        with torch.no_grad(), observed_attention(self.model, position) as maps:
            self.model.extract_feat(data['inputs'])
        return maps, (width, height)

    def draw(
        self, image: np.ndarray, sample: BaseDataElement, score_thr: float = 0.3, legend: bool = True
    ) -> np.ndarray:
        """Draw a prediction over its image.

        Args:
            image: The image.
            sample: The prediction.
            score_thr: Objects with lower scores are not drawn. Default: 0.3.
            legend: Append a legend of the predicted classes below the image. Default: True.
        """
        if 'pred_instances' in sample:
            labels = sample.pred_instances.labels[sample.pred_instances.scores >= score_thr]
            options = dict(pred_score_thr=score_thr)
        else:
            labels = sample.pred_sem_seg.data
            options = dict(with_labels=not legend)
        with colors_of_classes():
            self._visualizer.add_datasample('', mmcv.bgr2rgb(image), sample.cpu(), draw_gt=False, **options)
        drawn = self._visualizer.get_image()
        if legend:
            present = [label for label in labels.unique().tolist() if label < len(self.classes)]
            names, colors = ([values[label] for label in present] for values in (self.classes, self.palette))
            drawn = add_legend(drawn, names, colors)
        return mmcv.rgb2bgr(drawn)

    @property
    def classes(self) -> Sequence[str]:
        """Class names."""
        return self.dataset_meta['classes']

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """One RGB colour per class."""
        from mmdet.visualization import get_palette

        return [tuple(map(int, color)) for color in get_palette(self.dataset_meta.get('palette'), len(self.classes))]


def _host_class(registry: Registry, name: str) -> type:
    """Look up a class in the host library, whose scope is now the default."""
    with registry.switch_scope_and_registry(None) as host_registry:
        return host_registry.get(name)
