"""The error of ``torch.jit.script`` for modules of this package."""

from typing import NoReturn


class NotScriptable:
    """Base class of modules that ``torch.jit.script`` cannot compile."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise NotImplementedError(
            f'{type(self).__name__} cannot be compiled by torch.jit.script; '
            'use torch.jit.trace, torch.export or mmacmix.deploy.export'
        )
