"""Several processes train as one does on all of their images."""

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mmacmix.backbones import ACmixPyramidVisionTransformer, ACmixResNet, ACmixSAN, ACmixSwinTransformer
from tests.processes import run_processes

IMAGES = 4
VARIANTS = [
    dict(),
    dict(with_cp=True, frozen_stages=1),
    dict(with_cp=True, acmix=dict(shift_form='frozen')),
    dict(acmix=dict(rates=(1, 0), learn_rates=False)),
    dict(acmix=dict(rates=(0, 1), learn_rates=False)),
]


def resnet(**arguments):
    return ACmixResNet(26, **dict(base_channels=4, num_stages=2, out_indices=(0, 1), norm_eval=True) | arguments)


def swin(**arguments):
    arch = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
    return ACmixSwinTransformer(arch, **dict(window_size=4, out_indices=(0, 1), drop_path_rate=0.0) | arguments)


def pvt(**arguments):
    arch = dict(depths=(1, 1), embed_dims=(8, 16), num_heads=(1, 2), mlp_ratios=(2, 2), reductions=(2, 1))
    own = dict(patch_sizes=(4, 2), out_indices=(0, 1), drop_path_rate=0.0)
    return ACmixPyramidVisionTransformer(arch, **own | arguments)


def san(**arguments):
    return ACmixSAN(10, **dict(base_channels=32, kernel_sizes=(3, 3, 3, 3, 3), norm_eval=True) | arguments)


def like_trained(network):
    """In float64, with every parameter away from where it starts, and statistics that normalisation then uses."""
    torch.manual_seed(0)
    for name, tensor in network.double().state_dict().items():
        if 'running_var' in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)
    return network.train()


def step(network, images):
    """The gradients after a step on the images, of which each counts as much as every other."""
    network.zero_grad()
    sum(each.square().mean() for each in network(images)).backward()
    return {name.removeprefix('module.'): p.grad for name, p in network.named_parameters() if p.requires_grad}


def gradients_are_those_of_one_process(variants):
    # Batch normalisation is fixed: its statistics are those of a process's own images, and so not of all images.
    rank, number = distributed.get_rank(), distributed.get_world_size()
    images = torch.rand(IMAGES, 3, 24, 40, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    for build in (resnet, swin, pvt, san):
        for variant in variants:
            network = like_trained(build(**variant))
            case = f'{build.__name__} {variant}'
            expected = {name: grad.clone() for name, grad in step(network, images).items()}
            # Some are 0 but for rounding: the softmax cancels the position's bias.
            rounding = 1e-12 * max(grad.abs().max() for grad in expected.values())
            wrapped = DistributedDataParallel(network)
            for _ in range(2):  # a parameter without a gradient is found in the step after
                actual = step(wrapped, images.chunk(number)[rank])
                for name, grad in expected.items():
                    assert torch.allclose(actual[name], grad, rtol=1e-9, atol=rounding), (case, name)


@pytest.mark.parametrize('number, variants', [(2, VARIANTS), (4, VARIANTS[:2])])
def test_gradients_are_those_of_one_process_with_all_images(number, variants, tmp_path):
    run_processes(number, gradients_are_those_of_one_process, tmp_path, variants)
