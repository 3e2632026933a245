# %% [markdown]
# # Train the laptop model
#
# The recipe `sudoku6-cpu` trains a small recursive reasoner on 6x6 Sudoku, on a laptop without a GPU.
# The fast mode runs a few steps only, and then solves nothing.

# %%
import os
import tempfile
from pathlib import Path

FAST = os.environ.get("LOOPSCOPE_FAST") == "1"
RECIPE = "sudoku6-cpu"
RUN = Path(tempfile.mkdtemp()) / "run"  # choose a place of your own to keep the model
CHANGES = []  # changes to the recipe, as ["train.steps=400", "model.hidden_size=64"]
if FAST:
    CHANGES = ["train.steps=6", "train.eval_every=3", "train.checkpoint_every=6", "train.batch_size=8"]
    CHANGES += ["train.micro_batch=0", "train.compile=false", "model.hidden_size=32"]
    CHANGES += ["data.generate.count=48", "data.validation=16", "train.eval_segments=2", "train.log_every=1"]

# %%
import json
import warnings

import pandas as pd
from IPython.display import Markdown, display

warnings.filterwarnings("ignore", message="IProgress not found")  # a bar of plain text will do
import loopscope as ls
from loopscope.reports.figures import training_curves
from loopscope.training.run import plan

# %matplotlib inline

# %% [markdown]
# ## What it will do
#
# The plan tells size and cost before anything is trained.

# %%
recipe = ls.load_recipe(RECIPE, CHANGES)
costs = {name: value for name, value in plan(recipe).items() if name != "settings"}
pd.Series(costs, name="value").map("{:,.0f}".format).to_frame()

# %% [markdown]
# ## Train
#
# The score on held-out puzzles decides which weights are kept.


# %%
def validation(puzzles, settings):
    """The function that scores a model on the held-out puzzles while it is trained."""

    def scores(model):
        result = ls.evaluate(model, puzzles, segments=settings.eval_segments)
        return {name: score.value for name, score in result.scores[settings.eval_segments].items()}

    return scores


best = ls.train(recipe, RUN, on_eval=validation, progress=not FAST, device="cpu")

# %%
lines = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
plot = training_curves(lines)
plot.figure.set(facecolor="white", dpi=110)
display(plot.figure, Markdown(plot.caption))

# %% [markdown]
# ## Test
#
# The test puzzles come with the package; none of them was trained on. Accuracy is the share of puzzles
# with every cell right.

# %%
model = ls.load(best)
puzzles = ls.read_puzzles("sudoku6-test", limit=16 if FAST else None)
budget = model.settings.halt_max_steps
result = ls.evaluate(model, puzzles, segments=[1, budget, 4 * budget])
shown = ("exact_accuracy", "cell_accuracy", "halt_accuracy")
scores = {
    t: {name: f"{row[name].value:.3f} [{row[name].low:.3f}, {row[name].high:.3f}]" for name in shown}
    for t, row in result.scores.items()
}
pd.DataFrame(scores).rename_axis(columns="segments")

# %% [markdown]
# One puzzle, segment by segment: `loopscope solve` in a terminal. What the model does inside:
# `recursive_reasoning_chaos.ipynb` with `MODEL = str(RUN)` and `PUZZLES = "sudoku6-test"`.
