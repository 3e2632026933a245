"""Names of models, and models from and to the Hub."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoints import FOLDER, command, one_line, same_weights
from loopscope.models import hub
from loopscope.models.card import describe
from loopscope.models.load import list_shipped
from loopscope.models.load import load as load_model
from shared import shared_path


def test_unknown_names_list_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda source: pytest.fail("asked the network"))
    (tmp_path / "experiments").mkdir()
    for name in (
        "sudoku7-cpu",
        "runs/x",
        "./a/b",
        "../a/b",
        "/nowhere/x",
        "experiments/x",
        "a/step_7",
        "a/weights.pt",
    ):
        one_line(lambda name=name: load_model(name), name, "or a path", *list_shipped())
    one_line(lambda: load_model("x", L_cycels=3), "L_cycels", "Did you mean L_cycles?")
    (tmp_path / "empty").mkdir()
    one_line(lambda: load_model("empty"), "no model here", "step_<N>")
    one_line(
        lambda: load_model(shared_path(f"{FOLDER}/huggingface_layout")), "name one of hrm_sudoku, trm_sudoku"
    )


def test_shipped_models_load_by_name() -> None:
    for name in list_shipped():
        model = load_model(name)
        assert model.facts["format"] == "loopscope"
        assert describe(model)["parameters"] == model.num_parameters


def fake_hub(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[list[str]]:
    """A `huggingface_hub` that serves the files below `root` as links into a store, like the real one."""
    asked: list[list[str]] = []

    def list_repo_files(repo: str) -> list[str]:
        if repo != "owner/name":
            raise ConnectionError("no route\nto host")
        return [str(f.relative_to(root)) for f in sorted(root.rglob("*")) if f.is_file()]

    def snapshot_download(repo: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        snapshot = root.parent / f"snapshot{len(asked)}"
        for i, file in enumerate(allow_patterns):
            (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            (root.parent / "blobs").mkdir(exist_ok=True)
            blob = shutil.copy(root / file, root.parent / "blobs" / f"{len(asked)}_{i}")
            (snapshot / file).symlink_to(blob)
        return str(snapshot)

    module = SimpleNamespace(list_repo_files=list_repo_files, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_hub_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shared_path(f"{FOLDER}/huggingface_layout")
    asked = fake_hub(monkeypatch, shutil.copytree(source, tmp_path / "repo"))
    monkeypatch.chdir(tmp_path)
    model = load_model("owner/name/trm_sudoku")
    assert asked == [["trm_sudoku/weights.pt", "trm_sudoku/all_config.yaml", "data/sudoku_meta.json"]]
    assert same_weights(model, load_model(source / "trm_sudoku"))
    assert (model.settings.seq_len, model.facts["name"]) == (81, "owner/name/trm_sudoku")
    hrm = load_model("hf:owner/name/hrm_sudoku")
    assert hrm.settings.arch == "hrm"
    assert hrm.facts["assumed"] == {}  # the cells come from the file beside, not from the vocabulary
    one_line(lambda: load_model("owner/name"), "Models are in: hrm_sudoku, trm_sudoku")
    one_line(lambda: load_model("owner/other"), "owner/other", "ConnectionError: no route to host", "network")


def test_the_hub_gives_the_latest_step_only() -> None:
    files = ["step_5", "step_100", "step_20_raw", "all_config.yaml", "old/step_900", "README.md", "big.npy"]
    assert hub.choose(files, "", "owner/name") == ["step_100", "all_config.yaml"]


def test_hub_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    one_line(lambda: load_model("owner/name"), "pip install huggingface_hub")


# -- publishing


def test_push_uploads_what_load_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fake that keeps what it is given; a real one would serve the same files again."""
    kept, asked = tmp_path / "kept", []

    def create_repo(repo: str, private: bool, exist_ok: bool) -> None:
        asked.append((repo, private, exist_ok))

    def upload_folder(repo_id: str, folder_path: str) -> None:
        shutil.copytree(folder_path, kept / repo_id)

    fake = SimpleNamespace(create_repo=create_repo, upload_folder=upload_folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    said = command(capsys, "models", "push", "sudoku6-cpu", "me/six", "--private")
    assert "https://huggingface.co/me/six" in said
    assert asked == [("me/six", True, True)]
    assert sorted(f.name for f in (kept / "me/six").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert same_weights(load_model(kept / "me/six"), load_model("sudoku6-cpu"))


def test_push_says_what_the_hub_minds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("401\nlog in")

    one_line(lambda: hub.push(tmp_path, "no-owner"), "no-owner", "owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(create_repo=refuse))
    one_line(lambda: hub.push(tmp_path, "me/six"), "me/six", "PermissionError: 401 log in", "logged in")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    one_line(lambda: hub.push(tmp_path, "me/six"), "pip install huggingface_hub")
