"""Pieces of a page: escaped text, tables, figures with their data, and the page around them."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from loopscope.reports.drawing import Plot, to_svg
from loopscope.reports.quantity import Cell, Noted, Quantity, Table

WIDE = 6.0  # inches
LONGEST_WORD = 24  # letters that fit a column on a phone


def whole_page(title: str, parts: Sequence[str]) -> str:
    """One self-contained html page around its parts."""
    folder = files("loopscope.reports")
    css, template = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.html"))
    return Template(template).substitute(title=escape(title), css=css.rstrip(), body="\n".join(parts))


def figure_html(plot: Plot, number: int | None = None) -> str:
    """A figure with its caption and a link that holds its data; `number` tells runs on one page apart."""
    name = f"{plot.key}{'' if number is None else f'_{number}'}.csv"
    csv = base64.b64encode(plot.table.to_csv(index=False, float_format="%.6g").encode()).decode()
    link = f'<a class="download" download="{name}" href="data:text/csv;base64,{csv}">Data (csv)</a>'
    title = escape(plot.title)
    caption = f"<figcaption>{inline(plot.caption)} {link}</figcaption>"
    picture = to_svg(plot.figure, title)
    if plot.figure.get_size_inches()[0] > WIDE:  # too fine for a phone: it scrolls sideways there
        picture = f'<div class="scroll wide">{picture}</div>'
    return f"<figure><h3>{title}</h3>{picture}{caption}</figure>"


def table_html(table: Table, head: str = "h3", title: bool = True) -> str:
    """A table with its title and caption."""
    numeric = [all(isinstance(row[i], int) for row in table.rows) for i in range(len(table.header))]
    titles = "".join(
        f"<th{' class=n' if n else ''}>{escape(t)}</th>" for t, n in zip(table.header, numeric, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_td, row, numeric, table.header))}</tr>" for row in table.rows)
    heading = f"<{head}>{escape(table.title)}</{head}>" if title else ""
    caption = f'<p class="caption">{inline(table.caption)}</p>' if table.caption else ""
    rows = f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody>"
    noted = any(isinstance(row[0], Noted) for row in table.rows)
    kind = ' class="cards"' if noted and len(table.header) > 2 else ""  # long rows: see page.css
    return f'{heading}<div class="scroll"><table{kind}>{rows}</table></div>{caption}'


def _td(cell: Cell, numeric: bool, head: str) -> str:
    """A cell; on a phone it tells the head of its column itself."""
    kind, text = "", ""
    if isinstance(cell, int):
        kind, text = "n" if numeric else "", f"{cell:,}"
    elif isinstance(cell, Quantity):
        kind, text = "undefined" if math.isnan(cell.value) else "value", inline(str(cell))
    elif isinstance(cell, Noted):
        text = f"{inline(cell.name)}<small>{inline(cell.note)}</small>" if cell.note else inline(cell.name)
    else:
        kind, text = "nothing" if cell == "–" else "long" if _is_long(cell) else "", inline(cell)
    marks = f' class="{kind}"' if kind else ""
    return f'<td{marks} data-head="{escape(head)}">{text}</td>'


def _is_long(text: str) -> bool:
    """Whether a word of the text, a path or a hash, is wider than a column of a phone."""
    return any(len(word) > LONGEST_WORD for word in text.split())


def sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[0].upper() + text[1:]


def inline(text: str) -> str:
    """Escaped text, with `code`, *emphasis* and [[key|words]] links to footnotes; intervals do not break."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    text = re.sub(r"\[([^\[\], ]+), ([^\[\], ]+)\]", "[\\1,\u00a0\\2]", text).replace(" %", "\u00a0%")
    text = text.replace("&lt; ", "&lt;\u00a0")
    text = re.sub(r"\*([^*\s][^*]*)\*", r"<em>\1</em>", text)
    return re.sub(r"\[\[(\w+)\|([^\]]+)\]\]", r'<a href="#word-\1">\2</a>', text)
