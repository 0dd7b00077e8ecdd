"""What MkDocs takes from elsewhere in the checkout."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

DEMO = Path(__file__).parents[1] / 'demo'


@event_priority(100)  # before mkdocs-jupyter, which looks through all files
def on_files(files: Files, config: MkDocsConfig) -> None:
    files.append(File('mmacmix_tutorial.ipynb', str(DEMO), config.site_dir, config.use_directory_urls))
