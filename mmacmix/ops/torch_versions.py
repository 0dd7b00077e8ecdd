"""What older versions of torch lack; each entry names the version that makes it unnecessary, if there is one."""

from typing import Any

import torch
from torch import nn

from ..errors import LibraryError


def check_torch(oldest: str, purpose: str) -> None:
    """Check that torch is new enough for a purpose, which begins the message.

    Raises:
        LibraryError: It is older than ``oldest``.
    """
    if torch.__version__ < oldest:
        raise LibraryError(f'{purpose} needs torch {oldest} or newer, found {torch.__version__}.')


#: torch 2.3.
is_compiling = getattr(torch.compiler, 'is_compiling', getattr(torch._utils, 'is_compiling', lambda: False))
#: torch 2.7; before, exporters cannot be told from compilers.
is_exporting = getattr(torch.compiler, 'is_exporting', is_compiling)
#: torch 2.3. Exporters trace Python's bytecode only when they are strict.
is_dynamo_compiling = getattr(torch.compiler, 'is_dynamo_compiling', is_compiling)


def register_load_state_dict_pre_hook(module: nn.Module, hook: Any) -> None:
    """``module.register_load_state_dict_pre_hook(hook)``; torch 2.5."""
    if hasattr(module, 'register_load_state_dict_pre_hook'):
        module.register_load_state_dict_pre_hook(hook)
    else:
        module._register_load_state_dict_pre_hook(hook, with_module=True)


def unfused_attention() -> Any:
    """A context in which ``scaled_dot_product_attention`` consists of matrix products; torch 2.3."""
    if torch.__version__ < '2.3':
        return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_math=True, enable_mem_efficient=False)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def autocast_dtype_of_gpus() -> torch.dtype:
    """``torch.get_autocast_dtype('cuda')``; torch 2.4."""
    if torch.__version__ < '2.4':
        return torch.get_autocast_gpu_dtype()
    return torch.get_autocast_dtype('cuda')


def without_modes() -> Any:
    """A context without the modes of exporters, checkpoints and counters, which see every operation; never public."""
    return torch.utils._python_dispatch._disable_current_modes()


def is_transforming() -> bool:
    """Whether ``torch.func`` is transforming operations; there is no public function."""
    return not is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def assume_constant_result(function: Any) -> Any:
    """``torch.compiler.assume_constant_result``, without importing the compiler."""
    function._dynamo_marked_constant = True
    return function
