# The ResNets' recipe, since the authors' recipe for SAN is unknown.
_base_ = 'acmix-r50_8xb32_in1k.py'

model = dict(backbone=dict(_delete_=True, type='ACmixSAN', depth=10, out_indices=(4,), norm_eval=False))
