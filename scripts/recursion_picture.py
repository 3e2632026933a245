"""Draw the picture of the recursion for the documentation: docs/_static/recursion.svg.

    python scripts/recursion_picture.py

Its colours are variables of the page around it, so that it follows light and dark; no meaning is carried
by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OUT = Path(__file__).parent.parent / "docs" / "_static" / "recursion.svg"
WIDTH, HEIGHT = 480, 666
STYLE = """
text { font: 15px system-ui, sans-serif; fill: var(--color-foreground-primary, #222) }
.small { font-size: 13px; fill: var(--color-foreground-secondary, #555) }
.head { font-weight: 600 }
.middle { text-anchor: middle }
.end { text-anchor: end }
.math { font-family: serif; font-style: italic; font-size: 17px }
.on { fill: #fff; font-weight: 600 }
.onL { fill: #222; font-weight: 600 }
.box { fill: var(--color-background-secondary, #f5f6f7); stroke: var(--color-foreground-border, #878787) }
.later { stroke-dasharray: 4 3 }
.line { stroke: var(--color-foreground-secondary, #555); stroke-width: 1.5; fill: none }
.x { stroke-dasharray: 2 4 }
.L { stroke: #e69f00; fill: #e69f00 }
.H { stroke: #0072b2; fill: #0072b2 }
.rail { stroke-width: 3 }
.budget { stroke: var(--color-foreground-primary, #222); stroke-dasharray: 6 4; stroke-width: 1.5 }
.given { fill: var(--color-foreground-primary, #222) }
.found { fill: #009e73 }
.grid { fill: none; stroke: var(--color-foreground-border, #878787) }
.tip { fill: var(--color-foreground-secondary, #555) }
"""
DESCRIPTION = (
    "A puzzle is encoded once into x. A segment applies one block to the two states z_L and z_H in a fixed "
    "schedule: six L-updates, each taking in z_H and x, then one H-update taking in z_L; three times over. "
    "After every segment an answer and a halt logit are read from z_H. Training spends 16 segments; "
    "measurement runs on beyond."
)
GIVENS = {0, 3, 6, 9, 12, 15, 5}
FOUND = ({1, 8}, {1, 8, 10, 11}, {1, 2, 8, 10, 11, 13}, set(range(16)))  # cells filled, board after board


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{words}</text>'


def sub(letter: str, index: str) -> str:
    """A letter with an index; what follows stands on the line of the letter again."""
    return f'{letter}<tspan dy="4" font-size="12">{index}</tspan><tspan dy="-4">\u200b</tspan>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "line", tip: bool = False) -> str:
    end = ' marker-end="url(#tip)"' if tip else ""
    return f'<path d="M{x1} {y1}L{x2} {y2}" class="{kind}"{end}/>'


def box(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" class="{kind}"/>'


def board(x: float, y: float, cell: float, found: set[int]) -> Iterator[str]:
    """A board of 4 x 4: givens as full squares, cells that the model has filled as smaller ones."""
    for i in range(16):
        left, top = x + cell * (i % 4), y + cell * (i // 4)
        yield f'<rect x="{left}" y="{top}" width="{cell}" height="{cell}" class="grid"/>'
        if i in GIVENS or i in found:
            gap, kind = (0.16 * cell, "given") if i in GIVENS else (0.27 * cell, "found")
            size = cell - 2 * gap
            yield f'<rect x="{left + gap}" y="{top + gap}" width="{size}" height="{size}" class="{kind}"/>'


def start(top: float) -> Iterator[str]:
    """Puzzle, encoder, injected input and first state."""
    yield from board(14, top + 8, 19, set())
    yield text(14, top + 106, "puzzle", "small")
    yield line(98, top + 46, 182, top + 46, tip=True)
    yield text(140, top + 38, "encode", "small middle")
    yield text(192, top + 52, "x", "math")
    yield text(206, top + 51, "the same in every segment", "small")
    yield text(192, top + 82, f"{sub('z', 'L')}, {sub('z', 'H')}", "math")
    yield text(246, top + 81, "two hidden states, fixed start", "small")


def segment(top: float) -> Iterator[str]:
    """The three rails and one round of the schedule."""
    yield box(4, top, WIDTH - 8, 246)
    yield text(18, top + 26, "One segment", "head")
    yield text(WIDTH - 18, top + 26, "this round, 3 times = 21 applications", "small end")
    rails = {"x": top + 62, "L": top + 112, "H": top + 172}
    yield line(44, rails["x"], 458, rails["x"], "line x")
    yield line(44, rails["L"], 458, rails["L"], "L rail")
    yield line(44, rails["H"], 458, rails["H"], "H rail")
    yield text(18, rails["x"] + 5, "x", "math")
    for name in "LH":
        yield text(14, rails[name] + 4, sub("z", name), "math")
    for i in range(6):
        at = 78 + 56 * i
        yield line(at, rails["x"], at, rails["L"] - 18, tip=True)
        yield line(at, rails["H"], at, rails["L"] + 18, tip=True)
        yield f'<circle cx="{at}" cy="{rails["L"]}" r="13" class="L"/>'
        yield text(at, rails["L"] + 5, "L", "onL middle")
    at = 78 + 56 * 6
    yield line(at, rails["L"], at, rails["H"] - 19, tip=True)
    yield box(at - 13, rails["H"] - 13, 26, 26, "H")
    yield text(at, rails["H"] + 5, "H", "on middle")
    yield text(18, top + 212, "L:  z_L becomes f(z_L, z_H + x)", "small")
    yield text(18, top + 233, "H:  z_H becomes f(z_H, z_L)", "small")
    yield text(WIDTH - 18, top + 212, "f: one small network,", "small end")
    yield text(WIDTH - 18, top + 233, "the same for L and H (TRM)", "small end")


def orbit(top: float) -> Iterator[str]:
    """Segment after segment, what is read out, and the training budget."""
    yield text(4, top + 16, "Segment after segment", "head")
    places = ((4, "1"), (98, "2"), (212, "16"), (352, "17"))
    y = top + 60
    for n, (x, name) in enumerate(places):
        later = name == "17"
        yield box(x, y, 76, 44, "box later" if later else "box")
        yield text(x + 38, y + 27, name, "middle")
        if n:
            before = places[n - 1][0] + 76
            yield line(before, y + 22, x - 6, y + 22, "line", tip=True)
        yield line(x + 38, y + 44, x + 38, y + 70, tip=True)
        yield from board(x + 12, y + 78, 13, FOUND[n])
        yield text(x + 38, y + 150, "halt: " + ("no", "no", "no", "yes")[n], "small middle")
    yield text(190, y + 15, "...", "small middle")
    yield line(444, y + 22, 472, y + 22, "line", tip=True)
    yield line(325, top + 30, 325, y + 156, "budget")
    yield text(317, top + 42, "training stops here", "small end")
    yield text(333, top + 42, "measuring goes on", "small")
    yield text(4, y + 184, "Under each segment: the answer read from z_H, given cells full,", "small")
    yield text(4, y + 203, "filled cells smaller, and whether the model calls it right.", "small")


def main() -> None:
    tip = '<path d="M0 0L8 4L0 8z" class="tip"/>'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="recursion-title recursion-text">',
        '<title id="recursion-title">The recursion</title>',
        f'<desc id="recursion-text">{DESCRIPTION}</desc>',
        f"<style>{STYLE}</style>",
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto">{tip}</marker></defs>',
        *start(0),
        *segment(124),
        *orbit(392),
        "</svg>",
    ]
    OUT.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
