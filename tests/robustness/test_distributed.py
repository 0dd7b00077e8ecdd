"""Training in several processes equals training in one process with all of their images."""

import pytest
import torch
from mmengine.model import BaseModel
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from mmacmix.backbones import ACmixPyramidVisionTransformer, ACmixResNet, ACmixSAN, ACmixSwinTransformer
from mmacmix.engine import ShardedStrategy
from mmacmix.inference import build_model
from tests.conftest import needs_torch, tiny_config
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
    arch = dict(depths=(1, 1), embed_dims=(8, 16), num_heads=(1, 2), mlp_ratios=(2, 2), sr_ratios=(2, 1))
    own = dict(patch_sizes=(4, 2), out_indices=(0, 1), drop_path_rate=0.0)
    return ACmixPyramidVisionTransformer(arch, **own | arguments)


def san(**arguments):
    return ACmixSAN(10, **dict(base_channels=32, kernel_sizes=(3, 3, 3, 3, 3), norm_eval=True) | arguments)


def randomize(network):
    """Draw parameters and statistics, in float64."""
    torch.manual_seed(0)
    for name, tensor in network.double().state_dict().items():
        if 'running_var' in name:
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)
    return network.train()


def all_images():
    return torch.rand(IMAGES, 3, 24, 40, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def own_images():
    """This process's share."""
    return all_images().chunk(distributed.get_world_size())[distributed.get_rank()]


def loss_of(maps):
    """Every image has the same weight in it."""
    return sum(each.square().mean() for each in maps)


def gradients(network, images):
    network.zero_grad()
    loss_of(network(images)).backward()
    return {name.removeprefix('module.'): p.grad for name, p in network.named_parameters() if p.requires_grad}


def compare_gradients(variants):
    # Statistics of batch normalisation are fixed: each process would compute those of its own images.
    for build in (resnet, swin, pvt, san):
        for variant in variants:
            network = randomize(build(**variant))
            case = f'{build.__name__} {variant}'
            expected = {name: grad.clone() for name, grad in gradients(network, all_images()).items()}
            # Some are 0 up to rounding: the softmax cancels the bias of the position.
            rounding = 1e-12 * max(grad.abs().max() for grad in expected.values())
            actual = gradients(DistributedDataParallel(network), own_images())
            for name, grad in expected.items():
                assert torch.allclose(actual[name], grad, rtol=1e-9, atol=rounding), (case, name)


@pytest.mark.parametrize('number, variants', [(2, VARIANTS), (4, VARIANTS[:2])])
def test_gradients_are_those_of_one_process_with_all_images(number, variants, tmp_path):
    run_processes(number, compare_gradients, tmp_path, variants)


def step_detectors():
    from mmdet.testing import demo_mm_inputs

    for frozen in (-1, 1):
        cfg = tiny_config('mmdet', {'model.backbone.frozen_stages': frozen, 'model.backbone.with_cp': frozen > 0})
        torch.manual_seed(0)
        model = DistributedDataParallel(build_model(cfg).train())
        torch.manual_seed(distributed.get_rank())  # each process draws its own images and regions
        for _ in range(2):  # a parameter without a gradient raises in the next step
            model.zero_grad()
            images = demo_mm_inputs(1, [(3, 128, 128)], num_items=[3], num_classes=6, with_mask=True)
            data = model.module.data_preprocessor(images, training=True)
            model.module.parse_losses(model(**data, mode='loss'))[0].backward()
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert ('module.backbone.layer1.0.conv1.weight' in learned) is (frozen < 1)
        assert [name for name, p in learned.items() if p.grad is None] == []
        own = torch.stack([p.grad.norm() for p in learned.values()])
        first = own.clone()
        distributed.broadcast(first, 0)
        assert torch.equal(own, first) and own.isfinite().all() and own.sum() > 0


def test_a_detector_uses_all_parameters_in_every_process(tmp_path):
    run_processes(2, step_detectors, tmp_path)


class Network(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def init_weights(self):
        """Keep those drawn."""

    def forward(self, inputs, mode):
        return dict(loss=loss_of(self.backbone(inputs)))


def shard(network, folder):
    strategy = ShardedStrategy(work_dir=folder, env_kwargs=dict(launcher='pytorch'), log_kwargs=dict(log_level='ERROR'))
    optimizer = dict(optimizer=dict(type='AdamW', lr=LEARNING_RATE), clip_grad=dict(max_norm=MAX_NORM))
    strategy.prepare(network, optim_wrapper=optimizer)
    return strategy


LEARNING_RATE, MAX_NORM = 1e-3, 1e-3


def compare_sharded(folder):
    for build in (resnet, swin, pvt, san):
        plain, saved = Network(randomize(build())), f'{folder}/{build.__name__}.pth'
        optimizer = torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE)
        strategy = shard(Network(randomize(build())), folder)
        assert sum(p.numel() for p in strategy.model.parameters()) < sum(p.numel() for p in plain.parameters())
        assert len(FullyShardedDataParallel.fsdp_modules(strategy.model)) > 2, 'blocks must be sharded one by one'
        for step in range(2):
            if step:  # resumes from a checkpoint, with a network of other weights
                strategy = shard(Network(build().double()), folder)
                strategy.resume(saved)
            optimizer.zero_grad()
            loss_of(plain.backbone(all_images())).backward()
            assert clip_grad_norm_(plain.parameters(), MAX_NORM) > MAX_NORM
            optimizer.step()
            strategy.model.train().train_step(dict(inputs=own_images()), strategy.optim_wrapper)
            strategy.save_checkpoint(saved, extra_ckpt=dict(meta=dict(iter=step + 1)))
            distributed.barrier()
            whole = torch.load(saved)
            for name, p in plain.state_dict().items():
                assert torch.allclose(whole['state_dict'][name], p, rtol=1e-8, atol=1e-10), (build.__name__, step, name)
            for name, p in plain.named_parameters():
                for quantity, expected in optimizer.state[p].items():
                    actual = whole['optimizer']['state'][name][quantity]
                    case = (build.__name__, step, name, quantity)
                    assert torch.allclose(actual, expected, rtol=1e-8, atol=1e-12), case


@needs_torch('2.6', 'clipping the gradients of a sharded network')
@pytest.mark.slow
def test_a_sharded_network_trains_and_resumes_like_an_unsharded_one(tmp_path):
    run_processes(2, compare_sharded, tmp_path, str(tmp_path))
