"""The page of a training run, made from its folder: how it went, what it was told, where it came from.

Folders of unfinished runs and of older versions are read as far as they go: a line of metrics that was
cut off is left out, and a figure whose numbers were not written yet is not drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from loopscope.config import Recipe
from loopscope.errors import UserError
from loopscope.evaluation.intervals import wilson
from loopscope.files import write_text
from loopscope.reports.drawing import GREY, SOLVED, Plot, label_right, per_cent, styled, training_steps
from loopscope.reports.figures import training_curves
from loopscope.reports.markup import figure_html, inline, table_html, whole_page
from loopscope.reports.quantity import Quantity, Table, share
from loopscope.reports.words import counted

METRICS, CONFIG = "metrics.jsonl", "config.yaml"


@dataclass(frozen=True)
class Run:
    """A training run as its folder tells it.

    Attributes:
        folder: the run folder.
        settings: of config.yaml, nested; a key that was not written then is missing.
        train: a row per line of training metrics, with at least `step` and `minutes`.
        held_out: a row per evaluation, likewise.
        facts: of the newest checkpoint: `total_steps`, `data` and others, as far as it has them.
        models: what `best/config.json` and `last/config.json` say, by folder.
    """

    folder: Path
    settings: dict[str, Any]
    train: pd.DataFrame
    held_out: pd.DataFrame
    facts: dict[str, Any]
    models: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    def setting(self, section: str, key: str) -> Any:
        """A setting as written, else the default."""
        default = getattr(getattr(Recipe(), section), key)
        return self.settings.get(section, {}).get(key, default)

    @property
    def step(self) -> int:
        """The last step that wrote a line."""
        return int(max((*self.train["step"], *self.held_out["step"]), default=0))

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run, where known."""
        return self.facts.get("total_steps") or self.setting("train", "steps")

    @property
    def minutes(self) -> float:
        """Time spent, to the last line."""
        return float(max((*self.train["minutes"], *self.held_out["minutes"]), default=0.0))


def is_run(path: str | Path) -> bool:
    """Whether this is a run folder, or a folder of several (one per seed)."""
    return bool(run_folders(Path(path)))


def run_folders(path: Path) -> list[Path]:
    """The run folder itself, or those in it."""
    if (path / METRICS).is_file():
        return [path]
    return sorted(f.parent for f in path.glob(f"*/{METRICS}")) if path.is_dir() else []


def read_run(folder: str | Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: it holds no metrics.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder}: not a run folder (no {METRICS}). Name the folder that --out made.")
    lines = [_line(text) for text in (folder / METRICS).read_text().splitlines()]
    by_kind = {kind: [x for x in lines if x.get("kind") == kind] for kind in ("train", "eval")}
    train, held_out = (_frame(found) for found in by_kind.values())
    states = sorted((folder / "checkpoints").glob("step_*/state.json"))
    models = {part: folder / part / "config.json" for part in ("best", "last")}
    return Run(
        folder,
        yaml.safe_load((folder / CONFIG).read_text()) if (folder / CONFIG).is_file() else {},
        train,
        held_out,
        json.loads(states[-1].read_text()) if states else {},
        {part: json.loads(file.read_text()) for part, file in models.items() if file.is_file()},
    )


def _line(text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError:  # cut off by a crash, or being written
        return {}


def _frame(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Numbers by column; an older line that lacks a key, and a null, become NaN."""
    frame = pd.DataFrame(list(lines))
    for column in ("step", "minutes"):
        frame[column] = frame.get(column, pd.Series(dtype=float))
    return frame.drop(columns="kind", errors="ignore").astype(float)


# -- the page


def training_report(folders: Iterable[str | Path], out: str | Path) -> Path:
    """Write a page about training runs; it appears whole or not at all.

    Args:
        folders: run folders, or folders of such.
        out: the html file.
    Raises:
        UserError: a folder without metrics.
    """
    runs = [read_run(run) for folder in folders for run in run_folders(Path(folder)) or [Path(folder)]]
    write_text(out, training_page(runs))
    return Path(out)


def training_page(runs: Sequence[Run]) -> str:
    """The whole page as text."""
    title = "Training of " + ", ".join(run.name for run in runs)
    parts = [f"<h1>{escape(title)}</h1>"]
    if len(runs) > 1:
        parts += ["<h2>Side by side</h2>", table_html(_side_by_side(runs), title=False)]
    for number, run in enumerate(runs, start=1):
        several = len(runs) > 1
        parts += [f"<h2>{escape(run.name)}</h2>"] if several else []
        parts += [f'<p class="answer">{inline(summary(run))}</p>']
        drawn = [draw(run) for draw in FIGURES]
        parts += [figure_html(plot, number if several else None) for plot in drawn if plot is not None]
        parts += [_settings(run), _provenance(run)]
    return whole_page(title, parts)


def summary(run: Run) -> str:
    """How far the run is and how well it does, in two sentences."""
    total = run.total_steps
    of = f" of {total:,}" if total else ""
    done = f"{run.step:,}{of} steps in {_time(run.minutes)}."
    if total and run.step < total:
        done += " The run is not complete."
    best = best_score(run)
    if best is None:
        return f"{done} There is no validation score yet; the model in `last/` is that of the last save."
    step, score = best
    return (
        f"{done} The best of {counted(len(run.held_out), 'validation')}, at step {step:,}, solves {score} of "
        f"the held-out puzzles after {run.setting('train', 'eval_segments')} segments."
    )


def best_score(run: Run) -> tuple[int, Quantity] | None:
    """Step and exact accuracy of the best evaluation, with its interval; None before the first."""
    if "exact_accuracy" not in run.held_out or run.held_out["exact_accuracy"].isna().all():
        return None
    best = run.held_out.iloc[int(run.held_out["exact_accuracy"].astype(float).argmax())]  # first of equals
    n = int(run.setting("data", "validation"))
    return int(best["step"]), share(wilson(round(float(best["exact_accuracy"]) * n), n))


def _side_by_side(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        best = best_score(run)
        seed = str(run.setting("train", "seed"))
        scores = (str(best[1]), f"{best[0]:,}") if best else ("-", "-")
        rows.append((run.name, seed, f"{run.step:,}", _time(run.minutes), *scores))
    header = ("run", "seed", "steps", "time", "best validation", "at step")
    return Table("Side by side", header, rows, "Validation puzzles are held out of the training puzzles.")


def _time(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 120 else counted(round(minutes), "minute")


# -- figures


def _curves(run: Run) -> Plot | None:
    if "loss" not in run.train:
        return None
    lines = [{"kind": "train", **row} for row in run.train.to_dict("records")]
    lines += [{"kind": "eval", **row} for row in run.held_out.to_dict("records")]
    return training_curves(lines)


@styled
def _halting(run: Run) -> Plot | None:
    """Segments per puzzle and how often the halting head is right."""
    table = _columns(run, "segments", "halt_accuracy")
    if table["segments"].isna().all():
        return None
    figure = Figure(figsize=(5.0, 4.2))
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(table["step"], table["segments"], color=GREY, linewidth=1.2)
    budget = int(run.setting("model", "halt_max_steps"))
    upper.axhline(budget, color=GREY, linestyle="--", linewidth=0.9)
    upper.set_ylim(0, 1.06 * budget)
    upper.set_ylabel("segments per puzzle")
    lower.plot(table["step"], table["halt_accuracy"], color=GREY, linewidth=1.2)
    ends = [(_last(table["halt_accuracy"]), "training", GREY)]
    if "halt_accuracy" in run.held_out and run.held_out["halt_accuracy"].notna().any():
        held_out = run.held_out
        lower.plot(held_out["step"], held_out["halt_accuracy"], color=SOLVED, marker="o", markersize=3)
        ends.append((_last(held_out["halt_accuracy"]), "validation", SOLVED))
    lower.set_ylim(0, 1.02)
    per_cent(lower)
    lower.set_ylabel("halting right")
    training_steps(lower)
    label_right(lower, ends)
    caption = (
        f"Top: segments a slot spends on a puzzle before it halts or has spent the budget of {budget} "
        "(dashed), mean over the puzzles that ended. Bottom: how often the halting head says rightly "
        "whether the answer is right."
    )
    return Plot("halting", "Halting", figure, table, caption)


@styled
def _rates(run: Run) -> Plot | None:
    """Learning rate and speed."""
    table = _columns(run, "lr")
    table["segments_per_second"] = _speed(run)
    if len(table) < 2:
        return None
    figure = Figure(figsize=(5.0, 4.2))
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(table["step"], table["lr"], color=GREY, linewidth=1.2)
    upper.set_ylim(bottom=0)
    upper.set_ylabel("learning rate")
    lower.plot(table["step"], table["segments_per_second"], color=GREY, linewidth=1.2)
    lower.set_ylim(bottom=0)
    lower.set_ylabel("puzzle segments a second")
    training_steps(lower)
    middle = float(np.nanmedian(table["segments_per_second"]))
    caption = (
        "Top: learning rate of the weights. Bottom: speed between lines of metrics, evaluation and saving "
        f"included; a puzzle segment is one segment of one puzzle. Median {middle:,.3g} a second."
    )
    return Plot("speed", "Learning rate and speed", figure, table, caption)


FIGURES = (_curves, _halting, _rates)


def _columns(run: Run, *names: str) -> pd.DataFrame:
    """Columns of the training metrics; what an older run did not write is NaN."""
    return run.train.reindex(columns=["step", *names])


def _speed(run: Run) -> pd.Series:
    """Puzzle segments per second since the line before."""
    seconds = 60 * run.train["minutes"].diff()
    rate = run.train["step"].diff() * run.setting("train", "batch_size") / seconds
    return rate.where(seconds > 0)


def _last(values: pd.Series) -> float:
    found = values.dropna()
    return float(found.iloc[-1]) if len(found) else 0.0


# -- settings and provenance


def _settings(run: Run) -> str:
    changed = Table("Settings", ("setting", "value", "default"), _changed(run), "")
    everything = escape(yaml.safe_dump(run.settings, sort_keys=False))
    return (
        f"{table_html(changed)}<details><summary>All settings, as config.yaml has them</summary>"
        f"<pre>{everything}</pre></details>"
    )


def _changed(run: Run) -> list[tuple[str, str, str]]:
    """Settings that differ from the default."""
    default = Recipe().model_dump()
    rows = []
    for section in ("model", "train", "data"):
        for key, value in (run.settings.get(section) or {}).items():
            usual = default[section].get(key)
            if value != usual:
                rows.append((f"`{section}.{key}`", _plain(value), _plain(usual)))
    return rows


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _provenance(run: Run) -> str:
    rows = [("run folder", run.name), ("recipe", str(run.settings.get("name", "?")))]
    rows += [("seed", str(run.setting("train", "seed")))]
    rows += [("data hash", run.facts["data"])] if run.facts.get("data") else []
    for part, facts in run.models.items():
        what = {"ema": "averaged weights", "raw": "weights"}.get(str(facts.get("weights")), "weights")
        rows.append((f"{part}/", f"{what} of step {facts.get('step', 0):,}"))
        rows += [("sha256 of them", facts["weights_sha256"])] if facts.get("weights_sha256") else []
        rows += [("versions", str(facts["versions"]))] if facts.get("versions") else []
    body = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in rows)
    again = escape(f"loopscope train {run.folder / CONFIG} --out NEW")
    table = f'<div class="scroll"><table class="provenance"><tbody>{body}</tbody></table></div>'
    return f"<h3>Provenance</h3>{table}<p>To train again:</p><pre>{again}</pre>"
