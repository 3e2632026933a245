"""What the tensors of a checkpoint tell about its model, and what they leave open.

Names are those of the official code, wrappers removed. Widths, layers, vocabulary, the puzzle table and
the kind of mixer stand in the shapes. Cycles, heads and the position encoding do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loopscope.errors import UserError

FAMILIES = ("trm", "trm-singlez", "hrm", "transformer")  # whose tensors tell what they are
State = Mapping[str, Tensor]
TOKENS = "embed_tokens.embedding_weight"
TABLE = "puzzle_emb.weights"
POSITIONS = "embed_pos.embedding_weight"
CELLS = {11: 81, 6: 900, 12: 900}  # vocabulary -> cells of Sudoku, Maze-Hard, ARC
EXAMPLES = {
    "H_cycles": 3,
    "L_cycles": 6,
    "num_heads": 8,
    "pos_encodings": "rope",
    "puzzle_emb_len": 16,
    "seq_len": 81,
}


def infer_arch(state: State, source: str | Path = "weights") -> dict[str, Any]:
    """What the tensors alone tell, as `ModelSettings` values.

    Raises:
        UserError: there is no token embedding, or a tensor has no shape of ours.
    """
    vocab, width = _matrix(state, TOKENS, source)
    ids, ndim = _matrix(state, TABLE, source) if TABLE in state else (1, 0)
    layers = {level: _num_layers(state, level) for level in ("H", "L")}
    values: dict[str, Any] = {
        "arch": _family(state, layers),
        "hidden_size": width,
        "vocab_size": vocab,
        "num_puzzle_identifiers": ids,
        "puzzle_emb_ndim": ndim,
        "H_layers": layers["H"],
        "L_layers": layers["L"],
        "mlp_t": any(".mlp_t." in key for key in state),
        "expansion": _expansion(state, source),
    }
    if POSITIONS in state:
        values["pos_encodings"] = "learned"
    elif values["mlp_t"]:
        values["pos_encodings"] = "none"  # rope has no part in a token mixer
    start = next((state[key] for key in ("H_init", "L_init") if key in state), None)
    if start is not None and start.dtype in (torch.bfloat16, torch.float32, torch.float64):
        values["forward_dtype"] = str(start.dtype).removeprefix("torch.")
    return values


def infer_sizes(state: State, told: Mapping[str, Any], source: str | Path = "weights") -> dict[str, int]:
    """Cells and prefix slots, as far as they follow from the shapes and what is `told` already.

    The number of tokens shows in a token mixer and in learned positions. Otherwise the cells are those
    of the usual board for that vocabulary: 11 tokens are a Sudoku.
    """
    ndim, width = told["puzzle_emb_ndim"], told["hidden_size"]
    tokens = num_tokens(state, source)
    cells = told.get("seq_len") or CELLS.get(told["vocab_size"])
    prefix = told.get("puzzle_emb_len") if ndim else 0
    if ndim and (prefix == 0 or (prefix is None and not told["arch"].startswith("trm"))):
        prefix = -(-ndim // width)
    if prefix is None and tokens is not None and cells is not None and cells < tokens:
        prefix = tokens - cells
    if tokens is not None:
        cells = None if prefix is None else tokens - prefix
    found = {"seq_len": cells, "puzzle_emb_len": prefix}
    return {key: value for key, value in found.items() if value is not None and key not in told}


def demand(told: Mapping[str, Any], source: str | Path, config: Path | None) -> None:
    """Insist on the settings that neither the tensors nor the settings file tell.

    Raises:
        UserError: naming all that are missing and how to pass them.
    """
    needed = ["seq_len"]
    needed += [] if told["arch"] == "transformer" else ["H_cycles", "L_cycles"]
    needed += [] if told["mlp_t"] else ["num_heads", "pos_encodings"]
    needed += ["puzzle_emb_len"] if told["puzzle_emb_ndim"] and told["arch"].startswith("trm") else []
    missing = [key for key in needed if key not in told]
    if not missing:
        return
    where = f"nor {config.name} tell" if config else "nor an all_config.yaml beside them tell"
    shown = [f"{key}={EXAMPLES[key]}" for key in missing]
    call = ", ".join(f"{key}={EXAMPLES[key]!r}" for key in missing)
    raise UserError(
        f"{source}: neither the weights {where} {', '.join(missing)}. Pass what the model was trained with, "
        f"for example load(..., {call}), on the command line --set {' --set '.join(shown)}."
    )


def check_agreement(state: State, settings: Any, source: str | Path, says: Mapping[str, str]) -> None:
    """Compare the shapes with the settings in the words of the settings.

    Args:
        state: the tensors.
        settings: `ModelSettings` that should describe them.
        source: the weights file, for the message.
        says: setting -> who says so ("config.json says"); the key "" serves for all others.
    Raises:
        UserError: naming the first setting that the weights contradict.
    """
    if settings.arch not in FAMILIES:
        return  # left to the strict loading of the tensors
    actual = infer_arch(state, source)
    if settings.arch.startswith("trm") and actual["arch"].startswith("trm"):
        actual["arch"] = settings.arch  # they differ by one start state, which a damaged file may lack
    keys = ["arch", "hidden_size", "vocab_size", "puzzle_emb_ndim", "mlp_t"]
    keys += ["num_puzzle_identifiers"] if settings.puzzle_emb_ndim else []  # no table shows their number
    for key in (*keys, *(f"{level}_layers" for level in ("H", "L") if actual[f"{level}_layers"])):
        expected = getattr(settings, key)
        if actual[key] != expected:
            have = f"are {actual[key]} wide" if key == "hidden_size" else f"have {key}={actual[key]}"
            raise UserError(
                f"{source}: weights {have}, {says.get(key, says[''])} {key}={expected}. {_move(says, key)}"
            )
    tokens = num_tokens(state, source)
    if tokens not in (None, settings.num_tokens):
        raise UserError(
            f"{source}: weights are for {tokens} tokens, the settings give {settings.num_tokens} "
            f"(seq_len={settings.seq_len} and {settings.prefix_len} prefix slots). {_move(says, 'seq_len')}"
        )


def num_tokens(state: State, source: str | Path = "weights") -> int | None:
    """Prefix and cells together, where a tensor shows them: token mixer or learned positions."""
    mixer = next((key for key in state if key.endswith(".mlp_t.gate_up_proj.weight")), None)
    if mixer:
        return _matrix(state, mixer, source)[1]
    return _matrix(state, POSITIONS, source)[0] if POSITIONS in state else None


def _move(says: Mapping[str, str], key: str) -> str:
    return (
        f"Leave {key} out."
        if key in says
        else "Load weights and settings of the same run, the folder and not the file."
    )


def _family(state: State, layers: Mapping[str, int]) -> str:
    if layers["H"]:
        return "hrm" if layers["L"] else "transformer"
    return "trm" if "H_init" in state else "trm-singlez"


def _num_layers(state: State, level: str) -> int:
    start = f"{level}_level.layers."
    return len({key.removeprefix(start).split(".")[0] for key in state if key.startswith(start)})


def _expansion(state: State, source: str | Path) -> float:
    """An expansion that gives the inner widths found: 4 where it does, as officially.

    Widths are rounded up to multiples of 256, so a range of expansions gives the same model.
    """
    downs = [
        _matrix(state, key, source)
        for key in state
        if key.endswith(("mlp.down_proj.weight", "mlp_t.down_proj.weight"))
    ]
    above = max((1.5 * (inner - 256) / width for width, inner in downs), default=0.0)
    highest = min((1.5 * inner / width for width, inner in downs), default=4.0)
    return 4.0 if above < 4.0 <= highest else highest


def _matrix(state: State, key: str, source: str | Path) -> tuple[int, int]:
    if key not in state:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(
            f"{source}: no tensor {key} (found {found}, ...). Expected a TRM, HRM or transformer."
        )
    if state[key].ndim != 2 or 0 in state[key].shape:
        raise UserError(
            f"{source}: {key} has shape {tuple(state[key].shape)}, expected a matrix. Fetch the file again."
        )
    rows, columns = state[key].shape
    return rows, columns
