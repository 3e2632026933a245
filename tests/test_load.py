"""Loading: the official numbers from official files, and what must be given, is found, or is demanded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loopscope as ls
from checkpoints import FOLDER, GOOD, SMALL, one_line, same_weights
from loopscope.config import ModelSettings
from loopscope.models import build_model
from loopscope.models.folder import save_model
from loopscope.models.load import load as load_model
from loopscope.models.official import read_weights, save_official, strip_prefix
from loopscope.models.shapes import infer_arch
from loopscope.tasks.base import Batch
from shared import shared_path

# -- official numbers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", GOOD)
@torch.no_grad()
def test_outputs_of_official_checkpoints(name: str, dtype: str) -> None:
    """bfloat16 is a rough check of segment 1: it differs from float32 by 0.04 to 0.2 (trm_sudoku by 2)."""
    known, tolerances = GOOD[name]
    model = load_model(shared_path(f"{FOLDER}/{name}"), dtype=dtype, **known)
    expected = np.load(shared_path(f"{FOLDER}/expected/{name.replace('/', '_')}.npz"))
    keys = ("inputs", "puzzle_identifiers")
    ctx = model.encode(Batch(*(torch.from_numpy(expected[f"batch/{key}"]).long() for key in keys)))
    z = model.initial_state(ctx)
    if dtype == "bfloat16":
        tolerances = (2.0,) if name.endswith("trm_sudoku") else (0.2,)
    for t, atol in enumerate(tolerances, start=1):
        z = model.segment(z, ctx)
        out = model.readout(z, ctx)
        assert out.logits.dtype == model.dtype
        heads = {
            "logits": out.logits,
            "q_halt_logits": out.halt_logit,
            "q_continue_logits": out.continue_logit,
        }
        for key, value in heads.items():
            recorded = torch.from_numpy(expected[f"{dtype}/seg{t}/{key}"])
            torch.testing.assert_close(value.float(), recorded, rtol=0, atol=atol)


def test_compiled_checkpoint_as_a_bare_file(tmp_path: Path) -> None:
    """`torch.compile` adds a prefix; the values are those of the recorded case."""
    arrays = np.load(shared_path("fixtures/official_parity/trm_att_rope.npz"))
    shutil.copy(shared_path("fixtures/official_parity/trm_att_rope.compiled_ckpt.pt"), tmp_path / "any.pt")
    state = read_weights(tmp_path / "any.pt")
    recorded = {k.removeprefix("state/model.inner."): arrays[k] for k in arrays if k.startswith("state/")}
    assert set(state) == set(recorded)
    assert all(np.array_equal(state[k].float().numpy(), recorded[k]) for k in state)


# -- what is given, found and demanded


def test_facts_of_an_official_checkpoint() -> None:
    facts = load_model(shared_path(f"{FOLDER}/trm_att"), seq_len=16).facts
    assert (facts["step"], facts["weights"], facts["format"], facts["name"]) == (
        12,
        "ema",
        "official",
        "trm_att",
    )
    assert facts["official"]["lr"] == 1e-4
    assert facts["assumed"] == {}
    assert len(facts["model_hash"]) == 64


def test_a_bare_file_tells_its_shapes_and_demands_the_rest(tmp_path: Path) -> None:
    whole = load_model(shared_path(f"{FOLDER}/trm_att"), seq_len=16)
    file = shutil.copy(shared_path(f"{FOLDER}/trm_att/step_12"), tmp_path)
    one_line(
        lambda: load_model(file),
        "step_12",
        "H_cycles, L_cycles, num_heads, pos_encodings, puzzle_emb_len",
        "--set H_cycles=3",
    )
    most = {"H_cycles": 2, "num_heads": 4, "pos_encodings": "rope", "puzzle_emb_len": 16, "seq_len": 16}
    message = one_line(
        lambda: load_model(file, **most), "tell L_cycles. ", "load(..., L_cycles=6)", "--set L_cycles=6."
    )
    assert "num_heads" not in message
    bare = load_model(file, **most, L_cycles=3)
    assert bare.settings == whole.settings
    assert bare.facts["model_hash"] == whole.facts["model_hash"]
    assert bare.facts["assumed"] == {"halt_max_steps": 16}


def test_a_bare_hrm_trains_its_continue_head(tmp_path: Path) -> None:
    file = shutil.copy(shared_path(f"{FOLDER}/hrm/step_12"), tmp_path)
    known = {"H_cycles": 2, "L_cycles": 2, "num_heads": 4, "pos_encodings": "rope", "seq_len": 16}
    assert load_model(file, **known).settings == load_model(shared_path(f"{FOLDER}/hrm"), seq_len=16).settings


@pytest.mark.parametrize("told", [{"seq_len": 16}, {"puzzle_emb_len": 16}])
def test_a_token_mixer_gives_cells_from_slots_and_slots_from_cells(
    tmp_path: Path, told: dict[str, int]
) -> None:
    file = shutil.copy(shared_path(f"{FOLDER}/trm_mlp_uncompiled/step_12"), tmp_path)
    settings = load_model(file, H_cycles=2, L_cycles=3, **told).settings
    assert (settings.seq_len, settings.puzzle_emb_len, settings.mlp_t) == (16, 16, True)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"arch": "hrm", "H_layers": 2},
        {"arch": "trm-singlez"},
        {"arch": "transformer", "H_layers": 3, "L_layers": 0},
        {"mlp_t": True, "pos_encodings": "none", "expansion": 24.0},
        {"pos_encodings": "learned", "puzzle_emb_ndim": 24, "num_puzzle_identifiers": 7},
        {"forward_dtype": "bfloat16", "hidden_size": 512, "expansion": 2.0},
    ],
)
def test_shapes_tell_the_same_model(change: dict[str, Any]) -> None:
    """Built from what the tensors tell and what they cannot tell, a model has the same tensors again."""
    settings = SMALL.model_copy(update=change)
    state = build_model(settings, seed=0).state_dict()
    if settings.forward_dtype == "bfloat16":
        state |= {k: state[k].bfloat16() for k in ("H_init", "L_init")}
    found = infer_arch(state)
    untold = ("H_cycles", "L_cycles", "num_heads", "seq_len", "puzzle_emb_len")
    again = build_model(ModelSettings(**{k: getattr(settings, k) for k in untold} | found), seed=0)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert (found["arch"], found["forward_dtype"]) == (settings.arch, settings.forward_dtype)


def test_a_model_without_a_table_loads_whatever_identifiers_its_puzzles_had(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"puzzle_emb_ndim": 0, "num_puzzle_identifiers": 9})
    save_model(build_model(settings, seed=0), tmp_path / "model")
    assert ls.load(tmp_path / "model").settings == settings


def test_the_latest_step_wins(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        model = build_model(SMALL, seed=step)
        model.facts["step"] = step
        save_official(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.facts["step"] == 100
    assert same_weights(loaded, build_model(SMALL, seed=100))


def test_settings_of_the_user_win_and_are_kept(tmp_path: Path) -> None:
    save_model(build_model(SMALL, seed=0), tmp_path / "m")
    model = load_model(tmp_path / "m", H_cycles=5)
    assert (model.settings.H_cycles, model.applications_per_segment) == (5, 15)
    assert model.facts["set"] == {"H_cycles": 5}
    assert model.facts["model_hash"] != load_model(tmp_path / "m").facts["model_hash"]


def test_prefixes_in_any_mixture() -> None:
    keys = [
        "_orig_mod.model.inner.H_init",
        "module.model.inner.L_init",
        "inner.L_level._orig_mod.layers.0.w",
        "q",
    ]
    bare = strip_prefix({key: torch.zeros(1) for key in keys})
    assert list(bare) == ["H_init", "L_init", "L_level.layers.0.w", "q"]
    one_line(lambda: strip_prefix({"model.q": torch.zeros(1), "q": torch.ones(1)}), "q is there twice")
