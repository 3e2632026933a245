# %% [markdown]
# # Recursive reasoning and transient chaos
#
# A recursive reasoner applies one small network to its own state again and again until the answer
# stands. This notebook looks at that as a dynamical system: first a toy whose numbers are known exactly,
# then a trained model, measured in the same way. It runs on a laptop without a GPU.
#
# Everything to choose is in the next cell. `MODEL` is the name of a shipped model, a local folder, or a
# model on the Hub, for example `"blackhao0426/recursive-reasoning-chaos/trm_sudoku"` (or `hrm_sudoku`);
# the Hub needs `pip install huggingface_hub`, and published models want a GPU. With `PUZZLES = None`
# the puzzles are those that lie beside the model.

# %%
import os

from loopscope.cli.demo import MODEL, PUZZLES  # what `loopscope demo` measures; set your own below

# MODEL, PUZZLES = "blackhao0426/recursive-reasoning-chaos/trm_sudoku", None
FAST = os.environ.get("LOOPSCOPE_FAST") == "1"  # a short run that only shows that everything works
DEVICE = "cpu"
COUNT = 6 if FAST else 64  # puzzles
LENGTH = 2 if FAST else 8  # segments to follow, in training budgets
SIGMAS = [0.3, 1.0] if FAST else [0.3, 1.0, 3.0]  # kicks, in standard deviations of the start
RESTARTS = 2  # restarted orbits for each kick

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # a bar of plain text will do
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import loopscope as ls
from loopscope.dynamics.toys import exact_toy, run_toy
from loopscope.evaluation.auc import auc
from loopscope.evaluation.intervals import wilson
from loopscope.models.hub import puzzles_beside
from loopscope.reports import figures, orbit_figures, read_measurements
from loopscope.reports.findings import findings
from loopscope.reports.tables import quantities

# %matplotlib inline


def show(plot):
    """A figure of the report with its caption."""
    plot.figure.set(facecolor="white", dpi=110)
    display(plot.figure, Markdown(plot.caption))


# %% [markdown]
# ## 1. A toy with exact values
#
# The search is the logistic map $x' = 4x(1-x)$. It is chaotic: nearby points part at $\ln 2$ per step on
# average. When it comes closer than 0.04 to the hidden solution $s$ it is captured, and from then on the
# distance to $s$ halves with each step. Solved means captured and within 0.05.
#
# The share that is still searching follows from the transfer operator of the map, without any simulation.

# %%
longest = 32 if FAST else 256
searching, _ = exact_toy(longest)
toy = run_toy(n=4_000 if FAST else 20_000, segments=longest, seed=0)
solved, growth = toy.solved.values, toy.growth.values[:, :, 0]
times = [t for t in (4, 8, 16, 32, 64, 128, 256) if t <= longest]

rows = []
for t in times:
    right = solved[:, t - 1]
    area = auc(-growth[:, :t].mean(axis=1), right, resamples=200)
    rows.append([t, 1 - searching[t], right.mean(), int((~right).sum()), area.value, area.low, area.high])
names = ["segments", "solved, exact", "solved, simulated", "failures", "AUC", "AUC low", "AUC high"]
table = pd.DataFrame(rows, columns=names).set_index("segments")
table.round(5)

# %% [markdown]
# The AUC is the chance that a solved puzzle has a smaller exponent than an unsolved one.

# %%
figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(5, 4.2), layout="constrained")
error = [table["AUC"] - table["AUC low"], table["AUC high"] - table["AUC"]]
above.errorbar(table.index, table["AUC"], error, marker="o", markersize=4, color="tab:blue")
above.set(ylabel="AUC of the exponent", ylim=(0.5, 1.03))
below.plot(range(1, longest + 1), searching[1:], color="grey", label="exact")
seen = table[table["failures"] > 0]
below.plot(seen.index, 1 - seen["solved, simulated"], "o", color="tab:red", label="simulated")
below.set(xscale="log", yscale="log", xlabel="segments", ylabel="share not solved")
below.set_xticks(times, times)
below.minorticks_off()
below.legend(frameon=False)
plt.show()

# %%
defined = table.dropna(subset=["AUC"])
first, last = defined.iloc[0], defined.iloc[-1]
display(
    Markdown(
        f"From {defined.index[0]} to {defined.index[-1]} segments the AUC goes from {first['AUC']:.3f} to "
        f"{last['AUC']:.3f}, while the failures go from {first['failures']:,.0f} to {last['failures']:,.0f} "
        f"of {len(solved):,}. At {longest} segments the expected number of failures is "
        f"{searching[longest] * len(solved):,.2f}, and {table['failures'].iloc[-1]:,} were seen."
    )
)

# %% [markdown]
# **A correction.** It has been said of this toy that the separation vanishes as the time grows. The table
# shows otherwise: what vanishes is the class of failures. Once it is empty the AUC is not small, it is
# undefined. And in this toy the exponent is little more than the time of capture in other words: it
# grows while the search lasts and shrinks afterwards.
#
# ## 2. A trained model

# %%
model = ls.load(MODEL, device=DEVICE)
puzzles = puzzles_beside(MODEL) if PUZZLES is None else ls.read_puzzles(PUZZLES)
spread = np.linspace(0, len(puzzles) - 1, min(COUNT, len(puzzles))).astype(int)
puzzles = puzzles[spread]  # not the first ones: a set may be sorted by difficulty
budget = model.settings.halt_max_steps
display(
    Markdown(
        f"`{MODEL}`: {model.num_parameters:,} parameters, trained for up to {budget} segments of "
        f"{model.applications_per_segment} applications of its block. {len(puzzles)} puzzles of "
        f"`{puzzles.task.name}`."
    )
)

# %% [markdown]
# ## 3. Far past the budget
#
# One call measures everything below: orbits far longer than those of the training, exponents up to the
# training budget, and restarts from perturbed starts. Times in the figures are segments.

# %%
runs = ls.measure(
    model,
    puzzles,
    segments=LENGTH * budget,
    exponents=2,
    sigmas=SIGMAS,
    restarts=RESTARTS,
    seed=0,
    progress=not FAST,
)
m = read_measurements(runs)[0]

# %% [markdown]
# How many puzzles are right after each segment?

# %%
show(figures.accuracy_by_segment(m))

# %% [markdown]
# How far does the state still move in each segment?

# %%
show(orbit_figures.drift_series(m))

# %% [markdown]
# How many puzzles are not solved yet? On the log axis the fitted rate of escape can be compared with what
# was measured.

# %%
show(figures.survival_curve(m))

# %% [markdown]
# ## 4. Does a kick help?
#
# Each puzzle starts again from states to which noise is added, and runs up to the training budget. If
# unsolved puzzles are now solved, their solution can be reached from nearby, and the start was bad luck.

# %%
show(figures.restart_curves(m))

# %% [markdown]
# ## 5. Exponents by outcome
#
# The finite-time exponent is the mean rate at which nearby states part, over the segments up to the budget.

# %%
show(orbit_figures.exponents_by_outcome(m))

# %%
show(orbit_figures.drift_against_exponent(m))

# %% [markdown]
# ## 6. What this shows
#
# The sentences are chosen by the numbers and their intervals; "undecided" means that the interval allows
# both answers, and more puzzles are needed.

# %%
numbers = quantities(m)
display(Markdown("\n".join(f"- **{found.verdict}**: {found.evidence}" for found in findings(m, numbers))))

# %%
late = wilson(int((m.first_solved > budget).sum()), int((~m.solved[:, :budget].any(axis=1)).sum()))
if late.n:
    words = (
        f"Of {late.n} puzzles never right within the budget of {budget} segments, {100 * late.value:.0f} % "
        f"[{100 * late.low:.0f}, {100 * late.high:.0f}] were right at some segment up to {m.stop}."
    )
else:
    words = f"Every puzzle was right at some segment within the budget of {budget}."
Markdown(words)

# %%
pd.Series({name: str(value) for name, value in numbers.items()}, name="value and 95 % interval").to_frame()

# %% [markdown]
# The same measurement as a page with all figures, tables and boards: `ls.report(runs, "report.html")`.
# Next: `train_the_laptop_model.ipynb` and `measure_your_own_model.ipynb`.
