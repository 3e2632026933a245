"""Train a model from a recipe: `train` runs, `plan` only tells what it would cost."""

from loopscope.training.run import plan, train

__all__ = ["plan", "train"]
