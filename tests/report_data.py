"""A synthetic measurement with known outcomes, and a reader of pages, for the tests of reports."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import xarray as xr

from loopscope.reports import read_measurements
from loopscope.reports.measurement import Measurement

BUDGET, STOP, K_EXPONENTS = 16, 64, 4
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def synthetic(
    solved_early: int = 60,
    solved_late: int = 10,
    never: int = 30,
    *,
    settled_wrong: int = 0,
    stop: int = STOP,
    applications: int = 21,
    kick: float = 0.5,
    name: str = "sudoku-trm-mlp",
    seed: int = 0,
) -> xr.Dataset:
    """A measurement with known outcomes.

    `solved_early` puzzles are solved at segment 2, 3, ..., 12 in turn and stay solved; `solved_late` at
    20, 24, 28, ...; `never` not at all. Successes drift .01 in the end, failures 30, except
    `settled_wrong` of them.
    """
    rng = np.random.default_rng(seed)
    n = solved_early + solved_late + never
    first = np.full(n, -1)
    first[:solved_early] = 2 + np.arange(solved_early) % 11
    first[solved_early : solved_early + solved_late] = 20 + 4 * np.arange(solved_late)
    first[first > stop] = -1
    segment = np.arange(1, stop + 1)
    solved = (first[:, None] > 0) & (segment >= first[:, None])
    correct = solved[:, min(BUDGET, stop) - 1]
    still = solved.copy()
    still[n - settled_wrong :, 6:] = True
    noise = rng.lognormal(0, 0.2, (n, stop))
    steps = np.cumsum(still, axis=1)
    drift = np.where(still, 30 * 0.2 ** np.minimum(steps, 5), 30) * noise
    growth = np.where(solved[:, :BUDGET, None], -0.3, 2.0) - 0.25 * np.arange(K_EXPONENTS)
    growth = growth + rng.normal(0, 0.3, growth.shape)
    labels = np.tile(np.array([int(c) + 1 for c in SOLUTION], np.uint8), (n, 1))
    inputs = np.where(np.arange(81) % 3 == 0, labels, 1).astype(np.uint8)
    answers = labels.copy()
    answers[~correct, 1], answers[~correct, 4] = labels[~correct, 2], 1
    hits = np.where(
        correct[:, None, None], True, rng.random((n, 3, 4)) < np.array([0, kick, kick])[None, :, None]
    )
    plane = ("puzzle", "segment")
    variables = {
        "solved": (plane, solved),
        "cell_accuracy": (plane, np.where(solved, 1.0, 79 / 81)),
        "halt_logit": (plane, np.where(solved, 4.0, -6.0) + rng.normal(0, 1, (n, stop))),
        "drift_H": (plane, drift),
        "drift_L": (plane, 0.5 * drift),
        "growth": (("puzzle", "segment_growth", "exponent"), growth),
        "ftle": (("puzzle", "exponent"), growth.mean(axis=1)),
        "first_solved": (("puzzle",), first),
        "basin_solved": (("puzzle", "sigma", "restart"), hits),
        "basin_final": (("puzzle", "sigma", "restart"), hits),
        "inputs": (("puzzle", "cell"), inputs),
        "labels": (("puzzle", "cell"), labels),
        "answer": (("puzzle", "cell"), answers),
        "measured": (("puzzle",), np.ones(n, bool)),
    }
    coords = {
        "puzzle": np.arange(n),
        "segment": segment,
        "exponent": np.arange(1, K_EXPONENTS + 1),
        "sigma": [0.0, 0.1, 0.3],
        "restart": np.arange(1, 5),
        "rating": ("puzzle", np.where(np.arange(n) % 2 == 0, 0, 50)),
        "givens": ("puzzle", np.full(n, 27)),
    }
    attrs = {
        "format": "loopscope-measurement-1",
        "model": name,
        "model_hash": "4f" * 32,
        "data": "sudoku-extreme test",
        "data_hash": "a1" * 32,
        "task": "sudoku-3x3",
        "n": n,
        "seed": 0,
        "budget": BUDGET,
        "applications_per_segment": applications,
        "exponent_segments": BUDGET,
        "restart_segments": BUDGET,
        "traj_dtype": "float32",
        "tangent_dtype": "float32",
        "num_parameters": 5_028_866,
        "versions": '{"loopscope": "0.1.0", "torch": "2.9"}',
        "command": f"loopscope measure {name} --segments {stop} --exponents {K_EXPONENTS} --out run.zarr",
        "created": "2026-01-01T00:00:00+00:00",
    }
    runs = xr.Dataset(variables, coords, attrs)
    units = {
        "growth": "nats per segment",
        "ftle": "nats per segment",
        "first_solved": "segments",
        "drift_H": "norm",
    }
    for variable in runs.data_vars:
        runs[variable].attrs.update(units=units.get(str(variable), "1"), long_name=str(variable))
    return runs


def one(**how: object) -> Measurement:
    return read_measurements(synthetic(**how))[0]  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects what a page would load, its ids, and whether its tags close."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "srcset", "action", "data", "poster"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())
