"""Listings that wrap well on a phone: every line an element of its own, so that what wraps can be indented.

Words with a hyphen stay whole; a browser would break `--out` after its dashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pygments.formatters import HtmlFormatter
from sphinx.application import Sphinx
from sphinx.highlighting import PygmentsBridge

HYPHENED = re.compile(r"(?<!\S)(?=\S*-)[^\s<]{2,32}(?!\S)")  # a longer word would not fit and has to break


class Lines(HtmlFormatter[str]):
    """Pygments' html with each line inside `<span class="line">`."""

    def wrap(self, source: Any) -> Iterator[tuple[int, str]]:
        """Called by Pygments with pairs (is a line of code, html)."""
        yield from super().wrap(map(_one, source))


def _one(pair: tuple[int, str]) -> tuple[int, str]:
    is_code, html = pair
    if not is_code:
        return pair
    return 1, f'<span class="line">{HYPHENED.sub(_whole, html)}</span>'


def _whole(word: re.Match[str]) -> str:
    return f'<span class="whole">{word[0]}</span>'


def setup(app: Sphinx) -> dict[str, bool]:
    PygmentsBridge.html_formatter = Lines
    return {"parallel_read_safe": True, "parallel_write_safe": True}
