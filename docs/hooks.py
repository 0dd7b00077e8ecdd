"""Adds the tutorial, which is outside the docs folder, to the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

DEMO = Path(__file__).parents[1] / 'demo'


@event_priority(100)  # before mkdocs-jupyter, which converts all notebooks among the files
def on_files(files: Files, config: MkDocsConfig) -> None:
    files.append(File('mmacmix_tutorial.ipynb', str(DEMO), config.site_dir, config.use_directory_urls))
