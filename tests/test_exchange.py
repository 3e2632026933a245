"""Writing the official format: the same keys, order, shapes, dtypes and bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from checkpoints import FOLDER, GOOD, SMALL, one_line, same_weights
from loopscope.models import build_model
from loopscope.models.folder import save_model
from loopscope.models.load import load as load_model
from loopscope.models.official import save_official
from shared import shared_path


@pytest.mark.parametrize("name", ["trm_att", "trm_mlp_uncompiled", "hrm"])
def test_written_official_checkpoint_equals_the_recorded_one(tmp_path: Path, name: str) -> None:
    recorded = torch.load(shared_path(f"{FOLDER}/{name}/step_12"), map_location="cpu", weights_only=True)
    model = load_model(shared_path(f"{FOLDER}/{name}"), **GOOD[name][0])
    file = save_official(model, tmp_path / "out")
    assert file.name == "step_12"
    written = torch.load(file, weights_only=True)
    assert list(written) == list(recorded)
    for ours, theirs in zip(written.values(), recorded.values(), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours.view(torch.uint8), theirs.contiguous().view(torch.uint8))
    theirs = yaml.safe_load(shared_path(f"{FOLDER}/{name}/all_config.yaml").read_text())
    ours = yaml.safe_load((tmp_path / "out" / "all_config.yaml").read_text())
    assert {k: ours["arch"][k] for k in theirs["arch"]} == theirs["arch"]
    assert {k: ours[k] for k in theirs if k != "arch"} == {k: v for k, v in theirs.items() if k != "arch"}
    back = load_model(tmp_path / "out")
    assert back.settings == model.settings
    assert same_weights(back, model)


def test_an_architecture_of_ours_has_no_official_format(tmp_path: Path) -> None:
    model = load_model("sudoku9-equivariant")
    model.settings = model.settings.model_copy(update={"random_init": False})
    one_line(
        lambda: save_official(model, tmp_path / "out"),
        "trm-equivariant: the official code has no such architecture",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arch", ["trm", "trm-singlez", "hrm", "transformer"])
def test_every_architecture_survives_the_official_format(tmp_path: Path, arch: str) -> None:
    """Sizes of 6x6 Sudoku: neither tensors nor official keys tell 36 cells."""
    layers = {"H_layers": 2 if arch == "hrm" else 3 if arch == "transformer" else 0}
    settings = SMALL.model_copy(update={"arch": arch, "seq_len": 36, "vocab_size": 7, **layers})
    settings = settings.model_copy(update={"L_layers": 0} if arch == "transformer" else {})
    model = build_model(settings, seed=1)
    save_official(model, tmp_path)
    assert (tmp_path / "step_0").is_file()
    back = load_model(tmp_path)
    assert back.settings == settings
    assert same_weights(back, model)


def test_random_start_has_no_official_form(tmp_path: Path) -> None:
    model = build_model(SMALL.model_copy(update={"random_init": True}), seed=0)
    one_line(lambda: save_official(model, tmp_path), "random_init")


@pytest.mark.parametrize("name", ["trm_att", "trm_mlp_uncompiled", "hrm"])
def test_there_and_back_through_our_format(tmp_path: Path, name: str) -> None:
    """Official, ours, official, ours: both formats come back byte for byte."""
    for i in (1, 2):
        source = shared_path(f"{FOLDER}/{name}") if i == 1 else tmp_path / "official1"
        save_model(load_model(source, **GOOD[name][0]), tmp_path / f"ours{i}")
        save_official(load_model(tmp_path / f"ours{i}"), tmp_path / f"official{i}")
    for file in ("ours{}/model.safetensors", "official{}/step_12", "official{}/all_config.yaml"):
        first, second = (tmp_path / file.format(i) for i in (1, 2))
        assert first.read_bytes() == second.read_bytes()
    recorded = torch.load(shared_path(f"{FOLDER}/{name}/step_12"), map_location="cpu", weights_only=True)
    written = torch.load(tmp_path / "official2/step_12", weights_only=True)
    assert [(k, v.shape, v.dtype) for k, v in written.items()] == [
        (k, v.shape, v.dtype) for k, v in recorded.items()
    ]
    assert all(torch.equal(written[key], recorded[key]) for key in recorded)


def test_the_prefix_is_a_choice(tmp_path: Path) -> None:
    model = build_model(SMALL, seed=0)
    starts = {None: "_orig_mod.model.inner.", "model.inner.": "model.inner.", "": ""}
    for i, (asked, start) in enumerate(starts.items()):
        keys = list(torch.load(save_official(model, tmp_path / str(i), asked), weights_only=True))
        assert keys == [start + key for key in model.state_dict()]
        assert same_weights(load_model(tmp_path / str(i)), model)
    one_line(lambda: save_official(model, tmp_path / "x", "net."), "prefix net.", "model.inner.")
    assert not (tmp_path / "x").exists()
