"""ARC: canvas and tokens, task files, versions, builder, leakage."""

from loopscope.tasks.arc.board import Arc, arc_for

__all__ = ["Arc", "arc_for"]
