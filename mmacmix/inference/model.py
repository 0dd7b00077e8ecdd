"""Building the network of a config."""

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import nn

from ..errors import UserError, first_line
from ..versions import check_host


def build_model(cfg: Config) -> nn.Module:
    """Build a config's network with its initial weights, without loading checkpoints that the config names.

    Raises:
        UserError: The network cannot be built.
    """
    check_host(cfg.get('default_scope'))
    try:
        import_modules_from_strings(**cfg.get('custom_imports', dict(imports=[])))
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        return MODELS.build(cfg.model)
    except Exception as error:
        raise UserError(f'{cfg.filename} cannot be built: {first_line(error)}') from error
