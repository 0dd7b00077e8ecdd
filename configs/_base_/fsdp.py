# The network shared out over the processes (FSDP): each keeps a part of it, its gradients and the optimizer's state.
runner_type = 'FlexibleRunner'
strategy = dict(type='ShardedStrategy')  # MMEngine's FSDPStrategy
