"""The Chinese README has the commands and the code of the English one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def code(name):
    """All lines of code, without comments, spaces at their end, and the citation."""
    text = re.sub('```bibtex.*?```', '', (ROOT / name).read_text(), flags=re.DOTALL)
    blocks = re.findall(r'```\w+\n(.*?)```|((?:^    [^\n]*\n)+)', text, re.DOTALL | re.MULTILINE)
    lines = ''.join(fenced or indented for fenced, indented in blocks).splitlines()
    return [re.sub(r'\s+# .*', '', line).strip() for line in lines]


def test_commands_are_equal():
    english = code('README.md')
    assert len(english) >= 30 and code('README_zh-CN.md') == english


def test_links_lead_to_files():
    for link in re.findall(r'\]\((?!http)([^)#]+)', (ROOT / 'README_zh-CN.md').read_text()):
        assert (ROOT / link).exists(), link
