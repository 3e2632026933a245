"""Shared test set-up: one thread, fixed seeds, shape checks on."""

import torch
from jaxtyping import install_import_hook

install_import_hook("loopscope", "beartype.beartype")
torch.set_num_threads(1)
