"""Statistics of batch normalisation, measured on training images before the first iteration."""

from itertools import islice

import torch
from mmengine.dist import all_reduce_params, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..backbones.norm_statistics import measure_norms


@HOOKS.register_module()
class NormStatisticsHook(Hook):
    """Measures the running statistics of the backbone before training, as ``norm_eval=True`` then keeps them.

    For backbones with weights of a plain network, whose statistics are wrong after layers that it does not have.
    A training that is resumed has its own.

    Args:
        batches: Number of training batches, of each process. Default: 20.
    """

    def __init__(self, batches: int = 20) -> None:
        self.batches = batches

    def before_train(self, runner: Runner) -> None:
        if runner.iter:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        batches = islice(self._loader(runner), self.batches)
        images = (model.data_preprocessor(batch, training=True)['inputs'] for batch in batches)
        measure_norms(model.backbone, images)
        all_reduce_params(model.backbone.buffers(), op='mean')

    @staticmethod
    def _loader(runner: Runner) -> DataLoader:
        """Batches as in training, in another order: the samplers of training are not advanced."""
        loader = runner.train_dataloader
        return DataLoader(
            loader.dataset,
            loader.batch_size or loader.batch_sampler.batch_size,
            shuffle=True,
            collate_fn=loader.collate_fn,
            generator=torch.Generator().manual_seed(runner.seed + get_rank()),
        )
