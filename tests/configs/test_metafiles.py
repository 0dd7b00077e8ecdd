"""Guards that the model index lists every config and claims no results."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_index_lists_every_config_once_and_claims_no_results():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    collections = {collection['Name'] for collection in index['Collections']}
    models = [model for path in index['Import'] for model in yaml.safe_load((ROOT / path).read_text())['Models']]
    families = {path.parent for path in ROOT.glob('configs/*/metafile.yml')}
    assert {ROOT / path for path in index['Import']} == {family / 'metafile.yml' for family in families}
    listed = [model['Config'] for model in models]
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for family in families for path in family.glob('*.py'))
    for model in models:
        assert model['Name'] == Path(model['Config']).stem and model['In Collection'] in collections
        assert not {'Results', 'Weights'} & set(model)


def test_only_demonstration_configs_are_missing_from_the_index():
    families = {path.name for path in (ROOT / 'configs').iterdir() if path.is_dir() and path.name != '_base_'}
    assert families - {path.parent.name for path in ROOT.glob('configs/*/metafile.yml')} == {
        'ablation',
        'camvid',
        'mixing',
        'pennfudan',
        'shapes',
        'warm_start',
    }
