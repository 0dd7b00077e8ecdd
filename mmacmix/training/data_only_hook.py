"""A training that goes on from a checkpoint does not run what stands in it."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class DataOnlyHook(Hook):
    """Takes the text of a config out of a checkpoint's ``meta``, as which MMEngine would run it when training resumes.

    MMEngine looks there for the number of GPUs that MMDetection 2 noted under ``config``. Its own checkpoints, and so
    those of this package, have no such entry: their config stands under ``cfg``, which resuming does not read.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
