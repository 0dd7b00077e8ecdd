"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, which ends with a line break."""
    lines = [titles, ['---'] * len(titles), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)
