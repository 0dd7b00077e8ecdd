"""Training that shares out the network itself over the processes (FSDP)."""

from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.dist import all_reduce
from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.registry import FUNCTIONS, OPTIM_WRAPPERS, STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..layers import MixingLayer


@FUNCTIONS.register_module()
def acmix_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP's ``auto_wrap_policy``: blocks around layers of this package are gathered one at a time, all else together.

    Nothing smaller will do, as the layers compute with the weights of their parts.
    """
    return recurse or any(isinstance(child, MixingLayer) for child in module.children())


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy``, which clips by the whole gradient, resumes, and runs on CPUs too.

    Checkpoints are whole ones of process 0, the same as without a strategy.

    Args:
        model_wrapper: ``MMFullyShardedDataParallel`` with its arguments; ``sharding_strategy`` stays ``FULL_SHARD``.
            Default: blocks around layers of this package apart, ``use_orig_params``.
        arguments: Those of ``FSDPStrategy``, but for ``state_dict_cfg``.
    """

    def __init__(self, model_wrapper: dict | None = None, **arguments: Any) -> None:
        on_cpu = get_device() == 'cpu'
        wrapper = dict(type='MMFullyShardedDataParallel', auto_wrap_policy='acmix_blocks', use_orig_params=True)
        device = dict(device_id='cpu') if on_cpu else {}
        # Where all is on the CPU already, torch would take an offload to it for a copy, and hand out its buffers.
        whole = dict(rank0_only=True, offload_to_cpu=not on_cpu)
        super().__init__(
            model_wrapper=wrapper | device | (model_wrapper or {}),
            state_dict_cfg=dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', **whole),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig', **whole),
            ),
            **arguments,
        )

    def build_optim_wrapper(self, optim_wrapper: dict, model: nn.Module | None = None) -> BaseOptimWrapper:
        """MMEngine's, for a network that is shared out.

        Raises:
            ValueError: It is of another type than ``OptimWrapper``.
        """
        kind = optim_wrapper.get('type', 'OptimWrapper')
        if kind != 'OptimWrapper':
            raise ValueError(
                f'ShardedStrategy takes an OptimWrapper, got {kind}: mixed precision is '
                'strategy.model_wrapper.mixed_precision'
            )
        return super().build_optim_wrapper(ConfigDict(optim_wrapper, type='ShardedOptimWrapper'), model)

    def optim_state_dict(self) -> dict:
        """The whole state of the optimizer, by parameters' names; process 0's alone has contents."""
        return super().optim_state_dict() | self._base_settings()

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Take up what ``optim_state_dict`` gave; torch has changed the order of arguments that MMEngine relies on."""
        base = {key: state_dict[key] for key in self._base_settings()}
        own = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(own | base)

    def _base_settings(self) -> dict:
        settings = self.optim_wrapper.base_param_settings  # the learning rate without factors, for the log
        return {} if settings is None else dict(base_param_settings=settings)


@OPTIM_WRAPPERS.register_module()
class ShardedOptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper`` for a network that is shared out over all processes.

    It clips by the norm of the whole gradient, where MMEngine's would by that of a process's own part.

    Args:
        arguments: Those of ``OptimWrapper``.

    Raises:
        ValueError: ``clip_grad`` asks for another norm than the 2-norm.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        norm = self.clip_grad_kwargs.get('norm_type', 2)
        if norm != 2:
            raise ValueError(f'clip_grad.norm_type must be 2 for a network that is shared out, got {norm}')

    def _clip_grad(self) -> None:
        if self.clip_func is not nn.utils.clip_grad_norm_:  # by value: each for itself
            super()._clip_grad()
            return
        gradients = [p.grad for group in self.param_groups for p in group['params'] if p.grad is not None]
        squares = sum((grad.square().sum() for grad in gradients), torch.zeros((), device=get_device()))
        all_reduce(squares)
        norm = squares.sqrt()
        factor = (self.clip_grad_kwargs['max_norm'] / (norm + 1e-6)).clamp(max=1)
        for grad in gradients:
            grad.mul_(factor)
        self.message_hub.update_scalar(f'train/{self.grad_name}', norm.item())
