"""What the tests of loading and saving share: recorded checkpoints, a small model, the check of a message."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loopscope.cli import main
from loopscope.config import ModelSettings
from loopscope.errors import UserError
from loopscope.models import RecursiveModel

FOLDER = "fixtures/official_checkpoint_folder"
GOOD = {  # folder -> (what its files do not tell, absolute tolerances of segments 1, 2, 3)
    "trm_att": ({"seq_len": 16}, (1e-4, 1e-3, 1e-2)),
    "trm_mlp_uncompiled": ({}, (1e-4, 1e-3, 1e-2)),
    "hrm": ({"seq_len": 16}, (1e-4, 1e-3, 1e-2)),
    "huggingface_layout/trm_sudoku": ({}, (2e-3,)),  # multiplies a rounding by 60 per segment
    "huggingface_layout/hrm_sudoku": ({}, (1e-4, 1e-3, 1e-2)),
}
SMALL = ModelSettings(
    seq_len=16,
    vocab_size=6,
    hidden_size=16,
    num_heads=2,
    H_cycles=2,
    L_cycles=2,
    L_layers=1,
    forward_dtype="float32",
)


def one_line(call: Any, *words: str) -> str:
    """The message of the `UserError` that `call` raises: one line that holds `words`."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message
    assert message.endswith((".", "?"))
    for word in words:
        assert word in message, message
    return message


def same_weights(a: RecursiveModel, b: RecursiveModel) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(ka == kb and torch.equal(va, vb) for (ka, va), (kb, vb) in pairs)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command line prints; it must succeed."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    out, err = capsys.readouterr()
    assert stopped.value.code == 0, err
    return out
