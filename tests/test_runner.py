import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmacmix import runner
from mmacmix.errors import UserError
from mmacmix.layers import WindowACmix
from mmacmix.runner import check_checkpoint, check_data, resume
from mmacmix.training import DataOnlyHook, RandomStateHook


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a two-layer network, and the network."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    path = tmp_path / 'saved.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path), model


def test_a_wrapped_model_is_compared_by_what_is_inside(saved):
    path, model = saved
    check_checkpoint(path, nn.DataParallel(model))


def test_a_checkpoint_of_a_wrapped_model_fits_the_bare_one(saved, tmp_path):
    path = str(tmp_path / 'wrapped.pth')
    torch.save(nn.DataParallel(saved[1]).state_dict(), path)
    check_checkpoint(path, saved[1])


def test_another_head_is_refused_as_a_whole_and_taken_as_a_start(saved):
    path, _ = saved
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    with pytest.raises(UserError, match='checkpoint of another model: shapes differ for 1.weight, 1.bias'):
        check_checkpoint(path, other)
    check_checkpoint(path, other, whole=False)


def test_a_start_of_which_nothing_fits_is_refused(saved):
    with pytest.raises(UserError, match='it lacks weight, bias; the model lacks 0.weight, 0.bias, 1.weight and more'):
        check_checkpoint(saved[0], nn.Linear(4, 8), whole=False)


def test_a_checkpoint_that_the_model_adapts_fits(tmp_path):
    path = tmp_path / 'saved.pth'
    torch.save(dict(state_dict=nn.Sequential(WindowACmix(8, 2, window_size=7)).state_dict()), path)
    check_checkpoint(str(path), nn.Sequential(WindowACmix(8, 2, window_size=4)))
    check_checkpoint(str(path), nn.Sequential(WindowACmix(8, 2, rates=(1, 0), learn_rates=False)))
    with pytest.raises(UserError, match='the model lacks .*relative_position_bias_table'):
        check_checkpoint(str(path), nn.Sequential(nn.Linear(8, 8)))


def test_weights_that_mmengine_would_not_find_are_refused(saved, tmp_path):
    path = str(tmp_path / 'model.pth')
    torch.save(dict(model=saved[1].state_dict()), path)
    with pytest.raises(UserError, match='has weights under "model", and MMEngine looks for them under "state_dict"'):
        check_checkpoint(path, saved[1])


@pytest.mark.parametrize(
    'unsound',
    [
        lambda weight: weight.index_fill(0, torch.tensor(0), torch.nan),
        lambda weight: weight.index_fill(0, torch.tensor(0), torch.inf),
        lambda weight: weight.to('meta'),
        lambda weight: weight.to_sparse(),
    ],
    ids=['nan', 'inf', 'meta', 'sparse'],
)
def test_weights_that_are_no_numbers_are_refused(saved, unsound):
    path, model = saved
    weights = model.state_dict()
    torch.save(dict(state_dict={**weights, '1.weight': unsound(weights['1.weight'])}), path)
    with pytest.raises(UserError, match='has weights that are no finite numbers, 1 of them: 1.weight'):
        check_checkpoint(path, model, whole=False)


@pytest.mark.parametrize('meta', [None, [1], dict(epoch=0), dict(epoch=0, iter=-3), dict(epoch=0, iter='5')])
def test_a_checkpoint_without_a_place_to_go_on_from_is_refused(saved, tmp_path, meta):
    path, model = saved
    torch.save(dict(state_dict=model.state_dict(), message_hub={}, meta=meta), path)
    with pytest.raises(UserError, match='saved.pth holds weights and no training to go on from'):
        resume(Config(dict(work_dir=str(tmp_path), load_from=path)))


@pytest.mark.parametrize('meta', [None, [1]])
@pytest.mark.parametrize('hook', [DataOnlyHook, RandomStateHook])
def test_weights_of_others_may_have_any_meta(hook, meta):
    hook().after_load_checkpoint(None, dict(meta=meta))


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / 'images').mkdir()
    dataset = dict(type='ADE20KDataset', data_root=str(tmp_path), data_prefix=dict(img_path='images'))
    with pytest.raises(UserError, match='val_dataloader looks for images or maps in .*images and it is empty'):
        check_data(Config(dict(val_dataloader=dict(dataset=dataset))), ['val_dataloader'])
    (tmp_path / 'images' / '1.jpg').touch()
    check_data(Config(dict(val_dataloader=dict(dataset=dataset))), ['val_dataloader'])


def test_results_that_are_compared_with_another_file_are_told(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(runner, 'print_log', lambda note, *_: notes.append(note))
    for name in ('val.json', 'train.json'):
        (tmp_path / name).touch()
    cfg = Config(dict(val_dataloader=dict(dataset=dict(data_root=str(tmp_path), ann_file='val.json'))))
    for evaluator in (dict(ann_file=str(tmp_path / 'val.json')), [dict(type='DumpResults')]):
        cfg.val_evaluator = evaluator
        check_data(cfg, ['val_dataloader'])
    assert not notes
    cfg.val_evaluator = dict(ann_file=str(tmp_path / 'train.json'))
    check_data(cfg, ['val_dataloader'])
    (note,) = notes
    assert 'val.json and its results are compared with ' in note


def test_a_training_that_is_shared_out_resumes_its_own_checkpoints(saved, tmp_path):
    _, model = saved
    path, names = str(tmp_path / 'saved.pth'), [name for name, _ in model.named_parameters()]
    state = torch.optim.SGD(model.parameters(), 0.1).state_dict()
    checkpoint = dict(state_dict=model.state_dict(), optimizer=state, meta=dict(epoch=0, iter=1), message_hub={})
    cfg = Config(dict(work_dir=str(tmp_path), load_from=path, strategy=dict(type='ShardedStrategy')))
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match='was not written by FSDP, which resumes its own: start from it as load_from'):
        resume(cfg)
    state['param_groups'][0]['params'] = names
    torch.save(checkpoint, path)
    resume(cfg)
    assert cfg.resume
