# FSDP: each process keeps a shard of the parameters, their gradients and the optimizer state.
runner_type = 'FlexibleRunner'
strategy = dict(type='ShardedStrategy')  # a subclass of MMEngine's FSDPStrategy
