"""Model folders of our own: round trips, runs, and tables too large to be read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import FOLDER, SMALL, one_line, same_weights
from loopscope.models import RecursiveModel, build_model, folder
from loopscope.models.folder import save_model
from loopscope.models.load import load as load_model
from loopscope.models.official import save_official
from shared import shared_path


def test_a_model_folder_comes_back_equal(tmp_path: Path) -> None:
    model = build_model(SMALL, seed=3)
    save_model(
        model, tmp_path / "m", {"step": 7, "weights": "ema", "minutes": 2.0, "validation": {"exact": 0.5}}
    )
    back = load_model(tmp_path / "m")
    assert back.settings == SMALL
    assert same_weights(model, back)
    assert not back.training
    assert (back.facts["step"], back.facts["format"]) == (7, "loopscope")
    assert "after 7 steps (2 minutes)" in (tmp_path / "m" / "README.md").read_text()
    assert same_weights(back, load_model(tmp_path / "m" / "model.safetensors"))


def test_a_run_gives_its_best_else_its_last(tmp_path: Path) -> None:
    save_model(build_model(SMALL, seed=1), tmp_path / "last")
    assert same_weights(load_model(tmp_path), build_model(SMALL, seed=1))
    save_model(build_model(SMALL, seed=2), tmp_path / "best")
    assert same_weights(load_model(tmp_path), build_model(SMALL, seed=2))


def test_a_run_without_a_model_and_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step_00000100"
    checkpoint.mkdir(parents=True)
    for file in ("config.yaml", "metrics.jsonl", "checkpoints/step_00000100/state.json"):
        (tmp_path / file).touch()
    save_file({"a": torch.zeros(1)}, checkpoint / "model.safetensors")
    one_line(lambda: load_model(tmp_path), "has not saved a model yet")
    one_line(lambda: load_model(checkpoint), f"Load the run folder {tmp_path}.")


def test_conversion_keeps_weights_settings_and_provenance(tmp_path: Path) -> None:
    source = load_model(shared_path(f"{FOLDER}/hrm"), seq_len=16)
    save_model(source, tmp_path / "ours")
    ours = load_model(tmp_path / "ours")
    assert ours.settings == source.settings
    assert ours.facts["model_hash"] == source.facts["model_hash"]
    assert (ours.facts["step"], ours.facts["official"]["lr"], ours.facts["name"]) == (12, 7e-5, "hrm")


def test_loading_leaves_the_global_generator_alone() -> None:
    path = shared_path(f"{FOLDER}/trm_mlp_uncompiled")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(path)
    assert torch.equal(torch.rand(3), expected)


def test_saving_never_removes_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    one_line(lambda: save_model(build_model(SMALL, seed=0), tmp_path), "is not a model folder")
    assert (tmp_path / "thesis.tex").exists()


def test_dtype_and_device(tmp_path: Path) -> None:
    save_model(build_model(SMALL, seed=0), tmp_path / "m")
    assert load_model(tmp_path / "m").dtype == torch.float32
    assert load_model(tmp_path / "m", dtype="float64").dtype == torch.float64
    assert load_model(tmp_path / "m", dtype=torch.bfloat16).dtype == torch.bfloat16
    one_line(lambda: load_model(tmp_path / "m", dtype="float16"), "dtype=float16", "bfloat16")
    one_line(lambda: load_model(tmp_path / "m", device="toaster"), "device=toaster")


# -- large puzzle tables


def with_table(rows: int) -> RecursiveModel:
    """A small model with a table of `rows` different rows of 512."""
    settings = SMALL.model_copy(
        update={"puzzle_emb_ndim": 512, "puzzle_emb_len": 32, "num_puzzle_identifiers": rows}
    )
    model = build_model(settings, seed=0)
    model.puzzle_emb.weights.copy_(torch.arange(rows * 512).view(rows, 512) % 1000)
    return model


def resident_growth(path: Path) -> tuple[float, float]:
    """MiB by which a warm process grows when it opens a model, and its peak in the end over the start."""
    code = """
import sys
from loopscope.models.load import load
from loopscope.tasks.base import Batch
import torch
def now(what):
    return int(open("/proc/self/status").read().split(what + ":")[1].split()[0]) / 1024
load("sudoku6-cpu")  # what the libraries take at first use
before = now("VmRSS")
model = load(sys.argv[1])
opened = now("VmRSS")
with torch.no_grad():
    model.encode(Batch(torch.ones(2, 16, dtype=torch.long), torch.tensor([5, 39_000])))
print(opened - before, now("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    opened, peak = map(float, done.stdout.split())
    return opened, peak


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["ours", "official"])
def test_a_large_table_stays_on_the_disk(tmp_path: Path, kind: str) -> None:
    """78 MiB of table: neither opening nor using two rows of it takes a quarter of that."""
    model = with_table(40_000)
    save_model(model, tmp_path / "ours") if kind == "ours" else save_official(model, tmp_path / "official")
    opened, peak = resident_growth(tmp_path / kind)
    assert opened < 20
    assert peak < 20
    back = load_model(tmp_path / kind)
    assert "model_hash" not in back.facts
    assert torch.equal(back.puzzle_emb.weights, model.puzzle_emb.weights)
    assert back.content_hash == model.content_hash


def test_a_mapped_table_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing a row changes neither the file nor another model that is open."""
    monkeypatch.setattr(folder, "LARGE", 1000)
    save_model(with_table(4), tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    first, second = load_model(tmp_path / "m"), load_model(tmp_path / "m")
    first.puzzle_emb.weights[2] = -1
    assert torch.equal(second.puzzle_emb.weights, with_table(4).puzzle_emb.weights)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_the_checksum_covers_all_but_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LARGE", 1000)
    model = with_table(4)
    save_model(model, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    whole = file.read_bytes()
    table = model.puzzle_emb.weights.numpy().tobytes()
    at = whole.index(table)
    told = json.loads((tmp_path / "m" / "config.json").read_text())["weights_sha256"]
    assert told == hashlib.sha256(whole[:at] + whole[at + len(table) :]).hexdigest()
    for place in (at - 1, at + len(table)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        one_line(lambda: load_model(tmp_path / "m"), "damaged or changed")
    file.write_bytes(whole[:-1])
    one_line(lambda: load_model(tmp_path / "m"), "model.safetensors")
