# The network shared out over the processes (FSDP): each keeps a part of parameters, gradients and the optimizer's state.
runner_type = 'FlexibleRunner'
strategy = dict(type='ShardedStrategy')  # MMEngine's FSDPStrategy
