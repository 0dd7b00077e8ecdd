"""A trained network on images without annotations."""

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
from ..errors import UserError
from ..reporting.attention_maps import observed_attention
from ..reporting.colors import colors_of_classes
from ..reporting.legend import add_legend
from .model import build_model


class Predictor:
    """A detector or a segmentor with the weights of a checkpoint.

    Args:
        cfg: Its config, as ``mmacmix.cli.load_config`` returns it.
        checkpoint: The checkpoint.
        device: A torch device. Default: ``'cpu'``.
        fused: Merge layers for speed, see ``mmacmix.deploy.fuse``. Default: False.

    Raises:
        UserError: The config has neither a detector nor a segmentor, or the checkpoint does not fit it.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str = 'cpu', fused: bool = False) -> None:
        if cfg.get('default_scope') not in ('mmdet', 'mmseg'):
            raise UserError(f'{cfg.filename} has neither a detector nor a segmentor')
        if not cfg.get('test_dataloader'):
            raise UserError(f'{cfg.filename} has no test_dataloader, which says what images go through')
        model = revert_sync_batchnorm(build_model(cfg))
        saved = load_checkpoint(checkpoint)
        state_dict = state_dict_of(saved, checkpoint)
        check_fit(state_dict, model, checkpoint)
        model.load_state_dict(state_dict)
        model.eval()
        try:
            self.model = (fuse(model) if fused else model).to(device)
        except (AssertionError, RuntimeError) as error:  # torch has it not, or knows no such name
            raise UserError(f'device {device}: {str(error).splitlines()[0]}') from error
        dataset = next(innermost(cfg.test_dataloader.dataset))
        #: ``classes`` and ``palette``: those of the data set that the network was trained on, where that is known.
        self.dataset_meta = {
            **_class_of(DATASETS, dataset.type).METAINFO,
            **dataset.get('metainfo', {}),
            **saved.get('meta', {}).get('dataset_meta', {}),
        }
        steps = [step for step in dataset.pipeline if 'Annotations' not in step['type']]
        self.pipeline = Compose([{**steps[0], 'type': 'LoadImageFromNDArray'}, *steps[1:]])
        self._artist = _class_of(VISUALIZERS, cfg.visualizer.type)()
        self._artist.dataset_meta = self.dataset_meta

    def __call__(self, image: np.ndarray) -> BaseDataElement:
        """The prediction for one image, ``(H, W, 3)`` uint8, BGR: ``pred_instances`` or ``pred_sem_seg``.

        Raises:
            ValueError: It is none. Numbers that are not finite would be found nothing in.
        """
        with torch.no_grad():
            return self.model.test_step(pseudo_collate([self.prepare(image)]))[0]

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """What the network takes for an image: ``inputs`` and ``data_samples``."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f'image must be (H, W, 3) uint8, got {image.shape} {image.dtype}')
        return self.pipeline(dict(img=image, img_id=0))

    def attention_maps(
        self, image: np.ndarray, pixel: tuple[int, int]
    ) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """Where a pixel looks, in all layers with attention.

        Args:
            image: As for a call.
            pixel: x and y.

        Returns:
            Layer to ``(heads, h, w)``, see ``mmacmix.layers.MixingLayer.attention_map``, and width and height of what
            these cover, in pixels of the image: with padding, more than the image.
        """
        data = self.model.data_preprocessor(pseudo_collate([self.prepare(image)]), False)
        scales = [new / old for new, old in zip(data['data_samples'][0].img_shape, image.shape[:2], strict=True)]
        height, width = (side / scale for side, scale in zip(data['inputs'].shape[2:], scales, strict=True))
        place = (pixel[1] + 0.5) / height, (pixel[0] + 0.5) / width
        with torch.no_grad(), observed_attention(self.model, place) as maps:
            self.model.extract_feat(data['inputs'])
        return maps, (width, height)

    def draw(
        self, image: np.ndarray, sample: BaseDataElement, score_thr: float = 0.3, legend: bool = True
    ) -> np.ndarray:
        """The prediction drawn over its image: ``(H, W, 3)`` uint8, BGR.

        Args:
            image: As for a call.
            sample: What the call returned.
            score_thr: Objects with lower scores are left out. Default: 0.3.
            legend: Add a legend of its classes below, which makes the picture higher. Default: True.
        """
        detected = 'pred_instances' in sample
        options = dict(pred_score_thr=score_thr) if detected else dict(with_labels=not legend)
        with colors_of_classes():
            self._artist.add_datasample('', mmcv.bgr2rgb(image), sample.cpu(), draw_gt=False, **options)
        drawn = self._artist.get_image()
        if legend:
            found = (
                sample.pred_instances[sample.pred_instances.scores >= score_thr].labels
                if detected
                else (sample.pred_sem_seg.data)
            )
            labels = [label for label in found.unique().tolist() if label < len(self.classes)]
            drawn = add_legend(
                drawn, [self.classes[label] for label in labels], [self.palette[label] for label in labels]
            )
        return mmcv.rgb2bgr(drawn)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.dataset_meta['classes']

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """A colour, RGB, for each class."""
        from mmdet.visualization import get_palette

        return [tuple(map(int, color)) for color in get_palette(self.dataset_meta.get('palette'), len(self.classes))]


def _class_of(registry: Registry, name: str) -> type:
    """A class of the host library, whose scope is the default one by now."""
    with registry.switch_scope_and_registry(None) as hosts:
        return hosts.get(name)
