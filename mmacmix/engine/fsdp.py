"""Training with the network sharded over the processes (FSDP)."""

from typing import Any

from mmengine._strategy import FSDPStrategy
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.dist import all_reduce
from mmengine.optim import BaseOptimWrapper, OptimWrapper
from mmengine.registry import FUNCTIONS, OPTIM_WRAPPERS, STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..layers import MixingLayer
from ..ops import check_torch


@FUNCTIONS.register_module()
def acmix_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """FSDP's ``auto_wrap_policy``: each block that contains a layer of this package is one unit, the rest is another.

    Units cannot be smaller, because these layers use the weights of their submodules directly.
    """
    return recurse or any(isinstance(child, MixingLayer) for child in module.children())


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy`` with clipping by the norm of the full gradient, resuming, and support for CPUs.

    Checkpoints are full ones, written by process 0, as without a strategy.

    Args:
        model_wrapper: Arguments of ``MMFullyShardedDataParallel``; ``sharding_strategy`` must stay ``FULL_SHARD``.
            Default: ``auto_wrap_policy='acmix_blocks'`` and ``use_orig_params=True``.
        arguments: Those of ``FSDPStrategy``, except ``state_dict_cfg``.
    """

    def __init__(self, model_wrapper: dict | None = None, **arguments: Any) -> None:
        on_cpu = get_device() == 'cpu'
        wrapper = dict(type='MMFullyShardedDataParallel', auto_wrap_policy='acmix_blocks', use_orig_params=True)
        device = dict(device_id='cpu') if on_cpu else {}
        # On the CPU, offloading would not copy, and the state dict would share FSDP's buffers.
        full = dict(rank0_only=True, offload_to_cpu=not on_cpu)
        super().__init__(
            model_wrapper=wrapper | device | (model_wrapper or {}),
            state_dict_cfg=dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig', **full),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig', **full),
            ),
            **arguments,
        )

    def build_optim_wrapper(self, optim_wrapper: dict, model: nn.Module | None = None) -> BaseOptimWrapper:
        """Build a ``ShardedOptimWrapper``.

        Raises:
            ValueError: The config's type is not ``OptimWrapper``.
        """
        kind = optim_wrapper.get('type', 'OptimWrapper')
        if kind != 'OptimWrapper':
            raise ValueError(
                f'ShardedStrategy takes an OptimWrapper, got {kind}: set mixed precision in '
                'strategy.model_wrapper.mixed_precision'
            )
        return super().build_optim_wrapper(ConfigDict(optim_wrapper, type='ShardedOptimWrapper'), model)

    def optim_state_dict(self) -> dict:
        """The full optimizer state, indexed by parameter names; filled in process 0 only."""
        base = self.optim_wrapper.base_param_settings  # learning rate without multipliers, for the log
        return super().optim_state_dict() | dict(base_param_settings=base)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load what ``optim_state_dict`` returned; MMEngine relies on an order of arguments that torch has changed."""
        shard = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(shard | dict(base_param_settings=state_dict.get('base_param_settings')))


@OPTIM_WRAPPERS.register_module()
class ShardedOptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper``, clipping by the norm of the full gradient instead of the norm of each shard.

    Args:
        arguments: Those of ``OptimWrapper``.

    Raises:
        ValueError: ``clip_grad`` sets a norm other than the 2-norm.
        LibraryError: ``clip_grad`` limits the norm, and torch is older than 2.6.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.clip_grad_kwargs and self.clip_func is nn.utils.clip_grad_norm_:
            check_torch('2.6', 'clipping the gradient of a sharded network by its norm')
        norm = self.clip_grad_kwargs.get('norm_type', 2)
        if norm != 2:
            raise ValueError(f'clip_grad.norm_type must be 2 for a sharded network, got {norm}')

    def _clip_grad(self) -> None:
        if self.clip_func is not nn.utils.clip_grad_norm_:  # by value, which needs no communication
            super()._clip_grad()
            return
        parameters = [p for group in self.param_groups for p in group['params'] if p.grad is not None]
        square = nn.utils.get_total_norm([p.grad for p in parameters]).square().to(get_device())
        all_reduce(square)
        norm = square.sqrt()
        nn.utils.clip_grads_with_norm_(parameters, self.clip_grad_kwargs['max_norm'], norm)
        self.message_hub.update_scalar(f'train/{self.grad_name}', norm.item())
