"""Compiled loops over ARC canvases: find a grid, write a version of it elsewhere, canonical pairs.

A canvas is 900 tokens: a grid somewhere, an end mark (EOS) in the row below it and the column right of
it where these are on the canvas, PAD elsewhere. Importing this module loads numba.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from loopscope.tasks.arc.board import EOS, FIRST_COLOUR
from loopscope.tasks.arc.files import COLOURS, SIDE
from loopscope.tasks.base import PAD

VOCABULARY = FIRST_COLOUR + COLOURS
# Row and column to go in the old grid per row of the new one, then per column, for each symmetry.
_STEPS = np.array(
    [
        [1, 0, 0, 1],
        [0, -1, 1, 0],
        [-1, 0, 0, -1],
        [0, 1, -1, 0],
        [1, 0, 0, -1],
        [-1, 0, 0, 1],
        [0, 1, 1, 0],
        [0, -1, -1, 0],
    ]
)


@njit(cache=True)
@no_type_check
def boxes(tokens, out):
    """Top row, left column, height and width of the grid on each canvas; all 0 where there is none."""
    for b in range(len(tokens)):
        row = tokens[b]
        start = 0
        while start < SIDE * SIDE and row[start] < FIRST_COLOUR:
            start += 1
        out[b] = 0
        if start == SIDE * SIDE:
            continue
        top, left = start // SIDE, start % SIDE
        height = width = 0
        while left + width < SIDE and row[start + width] >= FIRST_COLOUR:
            width += 1
        while top + height < SIDE and row[start + height * SIDE] >= FIRST_COLOUR:
            height += 1
        out[b, 0], out[b, 1], out[b, 2], out[b, 3] = top, left, height, width


@njit(cache=True)
@no_type_check
def crops(tokens, out):
    """The largest rectangle of colours from the top left corner; the first of equally large ones."""
    for b in range(len(tokens)):
        best, width = 0, SIDE
        out[b] = 0
        for i in range(SIDE):
            run = 0
            while run < width and FIRST_COLOUR <= tokens[b, i * SIDE + run] < VOCABULARY:
                run += 1
            width = run
            if (i + 1) * width > best:
                best = (i + 1) * width
                out[b, 2], out[b, 3] = i + 1, width


@njit(cache=True)
@no_type_check
def _write(old, box, tid, colours, top, left, new):
    """Version (tid, colours) of the grid in `box` of `old`, with end marks, at (top, left) of `new`."""
    height, width = box[2], box[3]
    new[:] = PAD
    if height == 0:
        return
    down_r, down_c, right_r, right_c = _STEPS[tid]
    row = height - 1 if down_r + right_r < 0 else 0
    col = width - 1 if down_c + right_c < 0 else 0
    if down_r == 0:
        height, width = width, height
    start = (box[0] + row) * SIDE + box[1] + col
    down, right = down_r * SIDE + down_c, right_r * SIDE + right_c
    for i in range(height):
        at, source = (top + i) * SIDE + left, start + i * down
        for j in range(width):
            token = old[source + j * right]
            new[at + j] = token if token < FIRST_COLOUR else colours[token - FIRST_COLOUR] + FIRST_COLOUR
    if top + height < SIDE:
        at = (top + height) * SIDE + left
        new[at : at + width] = EOS
    if left + width < SIDE:
        for i in range(height):
            new[(top + i) * SIDE + left + width] = EOS


@njit(cache=True)
@no_type_check
def place(tokens, rows, box, tids, colours, shifts, out):
    """Row k of `out`: version k of canvas `rows[k]`, moved to `shifts[k]`; the grid must fit there."""
    for k in range(len(rows)):
        b = rows[k]
        _write(tokens[b], box[b], tids[k], colours[k], shifts[k, 0], shifts[k, 1], out[k])


@njit(cache=True)
@no_type_check
def _rename(canvases):
    """Name the colours of two canvases by first appearance, in place; 0 keeps its name."""
    names = np.zeros(COLOURS, np.uint8)
    next_name = 1
    for side in range(2):
        for at in range(SIDE * SIDE):
            token = canvases[side, at]
            if token <= FIRST_COLOUR:
                continue
            colour = token - FIRST_COLOUR
            if names[colour] == 0:
                names[colour] = next_name
                next_name += 1
            canvases[side, at] = names[colour] + FIRST_COLOUR


@njit(cache=True)
@no_type_check
def canonical_pairs(inputs, labels, boxes_in, boxes_out, out):
    """The least of the eight turned and renamed forms of each pair, (B, 2, L)."""
    plain = np.arange(COLOURS).astype(np.uint8)
    form = np.empty((2, SIDE * SIDE), np.uint8)
    for b in range(len(inputs)):
        for tid in range(8):
            _write(inputs[b], boxes_in[b], tid, plain, 0, 0, form[0])
            _write(labels[b], boxes_out[b], tid, plain, 0, 0, form[1])
            _rename(form)
            if tid == 0 or _less(form.reshape(-1), out[b].reshape(-1)):
                out[b] = form


@njit(cache=True)
@no_type_check
def _less(a, b):
    for i in range(len(a)):
        if a[i] != b[i]:
            return a[i] < b[i]
    return False
