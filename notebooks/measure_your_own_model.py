# %% [markdown]
# # Measure your own model
#
# Any network that applies a map to its own state can be measured. It needs four methods and one number;
# nothing has to be inherited. Here the network is a GRU cell that looks at a Sudoku again and again. It
# is not trained, so it solves nothing: replace it with yours.

# %%
import os

FAST = os.environ.get("LOOPSCOPE_FAST") == "1"
PUZZLES = "sudoku9-demo"  # shipped puzzles, a csv file, or a folder
COUNT, SEGMENTS = (8, 16) if FAST else (64, 64)

# %%
import warnings
from typing import NamedTuple

import pandas as pd
import torch
from IPython.display import Markdown, display
from torch import Tensor, nn

warnings.filterwarnings("ignore", message="IProgress not found")  # a bar of plain text will do
import loopscope as ls
from loopscope.dynamics.system import check_system, require
from loopscope.reports import figures, orbit_figures, read_measurements
from loopscope.reports.tables import headline

# %matplotlib inline

# %% [markdown]
# ## The four methods
#
# - `encode` turns puzzles into what the map sees of them. It stays the same along the orbit.
# - `initial_state` gives the start: a tensor, or a named tuple of tensors, with the puzzles along its
#   first axis.
# - `segment` is the map. It must be pure: no noise, no `.detach()`, nothing changed in place.
# - `readout` gives the logits of the answer and one number that says whether to halt.
#
# `applications_per_segment` tells how often the network is applied in one segment; costs are counted in it.


# %%
class Readout(NamedTuple):
    logits: Tensor
    halt_logit: Tensor


class MyReasoner(nn.Module):
    applications_per_segment = 1

    def __init__(self, cells: int = 81, tokens: int = 11, width: int = 64) -> None:
        super().__init__()
        self.look, self.cell = nn.Linear(cells * tokens, width), nn.GRUCell(width, width)
        self.answer, self.tokens = nn.Linear(width, cells * tokens), tokens

    def encode(self, batch: ls.Batch) -> Tensor:
        return self.look(nn.functional.one_hot(batch.inputs.long(), self.tokens).float().flatten(1))

    def initial_state(self, ctx: Tensor) -> Tensor:
        return torch.zeros_like(ctx)

    def segment(self, z: Tensor, ctx: Tensor) -> Tensor:
        return self.cell(ctx, z)

    def readout(self, z: Tensor, ctx: Tensor) -> Readout:
        return Readout(self.answer(z).unflatten(1, (-1, self.tokens)), z[:, 0])


# %% [markdown]
# ## Check it first
#
# A `.detach()` inside the map would make every exponent wrong without any error. The checks compare
# tangents with finite differences, and `require` stops at the first that fails.

# %%
torch.manual_seed(0)
mine = MyReasoner()
puzzles = ls.read_puzzles(PUZZLES, limit=COUNT)
checks = check_system(mine, puzzles[:4].batch())
require(checks)
pd.DataFrame([[c.name, c.obtained, c.tolerance, c.passed] for c in checks]).set_axis(
    ["check", "obtained", "tolerance", "passed"], axis=1
)

# %% [markdown]
# ## Measure it

# %%
runs = ls.measure(mine, puzzles, segments=SEGMENTS, exponents=3, exponent_segments=SEGMENTS)
pd.DataFrame(headline(runs), columns=["quantity", "value and 95 % interval"]).set_index("quantity")

# %%
m = read_measurements(runs)[0]
for plot in (figures.accuracy_by_segment(m), orbit_figures.drift_series(m)):
    plot.figure.set(facecolor="white", dpi=110)
    display(plot.figure, Markdown(plot.caption))

# %% [markdown]
# An exponent below 0 everywhere means that the state settles, whatever the answer is worth.

# %%
exponents = runs.ftle.to_pandas()
exponents.describe().loc[["mean", "std", "min", "max"]].round(4)

# %% [markdown]
# `ls.report(runs, "report.html")` writes the page; `ls.measure(..., out="mine.zarr")` keeps the
# measurement and goes on where it was interrupted.
