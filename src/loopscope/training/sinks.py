"""Where lines of metrics go besides metrics.jsonl: trackers that other packages offer.

A sink gets every line as it is written. Its package is imported when the run starts, so that a missing
one is said then and not after an hour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from loopscope.config import Recipe
from loopscope.errors import UserError
from loopscope.registry import Registry


@runtime_checkable
class Sink(Protocol):
    """What a tracker must do; made from the run folder and the settings."""

    def line(self, values: Mapping[str, Any]) -> None:
        """Take a line of metrics: `kind` (train or eval), `step`, and numbers."""

    def close(self) -> None:
        """The run has ended."""


SINKS: Registry[Any] = Registry("tracker")


def run_name(folder: Path) -> str:
    """The name of the folder, of one seed among several with the experiment's before it: `wide-seed1`."""
    folder = folder.resolve()
    return f"{folder.parent.name}-{folder.name}" if re.fullmatch(r"seed\d+", folder.name) else folder.name


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The measured numbers of a line as `train/loss`, `eval/exact_accuracy`, ..."""
    kind = values["kind"]
    kept = {k: v for k, v in values.items() if isinstance(v, int | float) and k != "step"}
    return {f"{kind}/{k}": float(v) for k, v in kept.items()}


@SINKS.register("wandb")
class Wandb:
    """Weights & Biases; a resumed run goes on under the same id."""

    module = "wandb"

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        name, config = run_name(folder), recipe.model_dump()
        self.run = import_module(self.module).init(
            project="loopscope", name=name, id=name, resume="allow", dir=str(folder), config=config
        )

    def line(self, values: Mapping[str, Any]) -> None:
        self.run.log(numbers(values) | {"step": values["step"]})

    def close(self) -> None:
        self.run.finish()


@SINKS.register("trackio")
class Trackio:
    """Trackio, which keeps its data on this machine."""

    module = "trackio"

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.run = import_module(self.module).init(
            project="loopscope", name=run_name(folder), resume="allow", config=recipe.model_dump()
        )

    def line(self, values: Mapping[str, Any]) -> None:
        self.run.log(numbers(values), step=values["step"])

    def close(self) -> None:
        self.run.finish()


@SINKS.register("tensorboard")
class TensorBoard:
    """Event files in the run folder, under `tensorboard/`."""

    module = "torch.utils.tensorboard"  # an ImportError unless the package tensorboard is there

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.writer = import_module(self.module).SummaryWriter(str(folder / "tensorboard"))

    def line(self, values: Mapping[str, Any]) -> None:
        for name, value in numbers(values).items():
            self.writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        self.writer.close()


def open_sinks(names: Sequence[str], folder: Path, recipe: Recipe) -> list[Sink]:
    """The sinks a run asks for in `train.log_to`.

    Args:
        names: of registered trackers.
        folder: the run folder, which names the run.
        recipe: the settings, shown by the tracker.
    Raises:
        UserError: no such tracker, or its package is not installed.
    """
    kinds = [SINKS[name] for name in names]
    for name, kind in zip(names, kinds, strict=True):
        try:
            import_module(kind.module)
        except ImportError as error:
            raise UserError(
                f"train.log_to: {name} is not installed ({error}). pip install {name}, or leave it out."
            ) from None
    return [kind(folder, recipe) for kind in kinds]
