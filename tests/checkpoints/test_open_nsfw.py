"""open_nsfw: an ONNX file of its layout computes in onnxruntime what the converted network computes in torch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mmacmix.backbones import ACmixResNet
from mmacmix.checkpoints import WeightsError, convert, load_checkpoint
from mmacmix.checkpoints.open_nsfw import ARGUMENTS, DEPTHS
from mmacmix.datasets import write_shapes
from mmacmix.errors import UserError
from tests.tooling import complaint, load

PLAIN = dict(ARGUMENTS, stage_with_acmix=(False,) * 4)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """Random weights in a graph with the names of the published file."""
    rng = np.random.default_rng(0)
    nodes, tensors = [], []

    def conv(x, name, in_channels, out_channels, side, stride):
        weight = rng.normal(0, (in_channels * side**2) ** -0.5, (out_channels, in_channels, side, side))
        bias = rng.normal(0, 0.1, out_channels)
        # The names of weights say nothing, as in the published file.
        names = [f'tensor{len(tensors)}', f'tensor{len(tensors) + 1}']
        arrays = zip((weight, bias), names, strict=True)
        tensors.extend(numpy_helper.from_array(array.astype('f4'), each) for array, each in arrays)
        output = f'{name}/FusedBatchNormV3:0'
        settings = dict(kernel_shape=[side] * 2, strides=[stride] * 2, pads=[side // 2] * 4)
        nodes.append(helper.make_node('Conv', [x, *names], [output], **settings))
        return output

    def relu(x):
        nodes.append(helper.make_node('Relu', [x], [f'relu{len(nodes)}']))
        return nodes[-1].output[0]

    x = relu(conv('input', 'bn_1', 3, 64, 7, 2))
    nodes.append(helper.make_node('MaxPool', [x], ['pool'], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, channels = 'pool', 64
    for stage, blocks in enumerate(DEPTHS):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f'bn_stage{stage}_block{block}_'
            stride = 2 if stage and not block else 1
            shortcut = x if block else conv(x, name + 'proj_shortcut', channels, 4 * width, 1, stride)
            inner = relu(conv(x, name + 'branch2a', channels, width, 1, stride))
            inner = relu(conv(inner, name + 'branch2b', width, width, 3, 1))
            inner = conv(inner, name + 'branch2c', width, 4 * width, 1, 1)
            nodes.append(helper.make_node('Add', [inner, shortcut], [f'sum{len(nodes)}']))
            x, channels = relu(nodes[-1].output[0]), 4 * width
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, None, None]) for name in ('input', x)]
    graph = helper.make_graph(nodes, 'open_nsfw', info[:1], info[1:], tensors)
    path = tmp_path_factory.mktemp('onnx') / 'open-nsfw.onnx'
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8), path)
    return path


def test_outputs_are_equal(file):
    network = ACmixResNet(**PLAIN).eval()
    network.load_state_dict(convert(load_checkpoint(file)['state_dict'], 'open-nsfw'))
    image = torch.rand(1, 3, 96, 65)
    (expected,) = onnxruntime.InferenceSession(file).run(None, dict(input=image.numpy()))
    with torch.no_grad():
        output = network(image)[-1].numpy()
    assert abs(output - expected).max() <= 1e-5 * abs(expected).max()


def test_all_but_the_3x3_convolutions_fit_acmix(file):
    state_dict = convert(load_checkpoint(file)['state_dict'], 'open-nsfw')
    found = ACmixResNet(**ARGUMENTS).load_state_dict(state_dict, strict=False)
    assert {name.split('.', 2)[2] for name in found.unexpected_keys} == {'conv2.weight'}
    assert all('.conv2.' in name for name in found.missing_keys)


def test_other_files_are_refused(file, tmp_path):
    state_dict = load_checkpoint(file)['state_dict']
    first = next(iter(state_dict))
    with pytest.raises(UserError, match=f"not a checkpoint of 'open-nsfw': missing keys: {first}"):
        convert({name: tensor for name, tensor in state_dict.items() if name != first}, 'open-nsfw')
    cut = tmp_path / 'cut.onnx'
    cut.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match='cut.onnx cannot be read as a checkpoint'):
        load_checkpoint(cut)


def test_the_tool_gives_the_normalisation_statistics(file, tmp_path, capsys):
    write_shapes(tmp_path / 'shapes', train=2, val=1)
    command = ['open-nsfw', file, tmp_path / 'plain.pth']
    assert 'open-nsfw needs --images' in complaint('convert_checkpoint.py', command, capsys)
    command += ['--images', tmp_path / 'shapes/images/train']
    load('convert_checkpoint.py').main(list(map(str, command)))
    networks = [ACmixResNet(**PLAIN).eval() for _ in range(2)]
    networks[0].load_state_dict(convert(load_checkpoint(file)['state_dict'], 'open-nsfw'))
    networks[1].load_state_dict(load_checkpoint(tmp_path / 'plain.pth')['state_dict'])
    assert (networks[0].bn1.running_mean == 0).all() and (networks[1].bn1.running_mean != 0).all()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before, after = (network(image)[-1] for network in networks)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * before.abs().max().item())
