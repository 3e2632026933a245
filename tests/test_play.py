"""The playground: what it shows of runs whose every number is known, and the page as it is served."""

from __future__ import annotations

import re
import socket
import sys
from typing import Any

import numpy as np
import pytest
import torch

import loopscope as ls
from loopscope.errors import UserError
from loopscope.models.folder import save_model
from loopscope.reports import playground
from loopscope.reports.animation import Film, record
from loopscope.reports.playground import (
    fit_line,
    kick,
    nearby,
    network,
    parse,
    puzzles_for,
    show,
    verdict,
    watch,
)
from tiny import Approach, tiny_model, tiny_puzzles

PUZZLE = "".join(".1234"[max(t - 1, 0)] for t in tiny_puzzles(1).inputs[0])


@pytest.fixture(scope="module")
def source(tmp_path_factory: Any) -> str:
    """A tiny random model on the disk."""
    folder = tmp_path_factory.mktemp("play") / "model"
    save_model(tiny_model(), folder)
    return str(folder)


@pytest.fixture
def approach(monkeypatch: Any) -> Any:
    """Makes a run of `Approach` of some rates, which the playground takes for the model of that film."""

    class Known(Approach):
        def encode(self, batch: Any) -> torch.Tensor:  # the playground hides the answer, this map needs it
            assert batch.labels is None
            return torch.as_tensor(tiny_puzzles(1).labels).double().expand(len(batch.inputs), -1)

    def run(*rates: float, segments: int = 8) -> tuple[str, Film]:
        monkeypatch.setattr(playground, "network", lambda _: Known(*rates))
        return "known", record(Known(*rates), parse(PUZZLE), 0, segments, growth=False)

    return run


# -- puzzles


def test_a_puzzle_as_people_paste_it():
    assert parse(PUZZLE).inputs.tolist() == tiny_puzzles(1).inputs.tolist()
    framed = parse(PUZZLE).task.render(tiny_puzzles(1).inputs[0])
    assert "│" in framed
    for text in (framed, " ".join(PUZZLE), "\n".join(re.findall("....", PUZZLE)), PUZZLE.replace(".", "0")):
        assert parse(text).inputs.tolist() == tiny_puzzles(1).inputs.tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  ", "nothing given"),
        (PUZZLE[1:], "no Sudoku board has 15 cells"),
        ("x" + PUZZLE[1:], "'x' in row 1, column 1"),
        ("11" + "." * 14, "two 1s in row 1"),
    ],
)
def test_a_bad_puzzle_is_named(text, says):
    with pytest.raises(UserError, match=says) as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_the_shipped_puzzles_of_a_size():
    nine, six = puzzles_for(81), puzzles_for(36)
    assert {name.split()[0] for name in nine} == {"sudoku9-hard", "sudoku9-demo"}
    assert len(six) == playground.LISTED
    for name, text in [*nine.items(), *six.items()]:
        assert f"({sum(c != '.' for c in text)} givens)" in name
    assert puzzles_for(16) == {}


def test_the_first_puzzle_needs_more_than_the_budget():
    name = list(puzzles_for(81))[playground.FIRST]
    assert name.startswith("sudoku9-hard 10 ")
    model = ls.load(playground.MODEL, dtype="float32")
    puzzle = ls.read_puzzles("sudoku9-hard")[[playground.FIRST]]
    right = (ls.solve(model, puzzle, segments=32, trace=True).trace == puzzle.labels[:, None]).all(2)[0]
    assert not right[: model.settings.halt_max_steps].any()
    assert right[-1]


def test_models_it_cannot_show(tmp_path):
    save_model(tiny_model(seq_len=15), tmp_path / "odd")
    with pytest.raises(UserError, match="not a model for Sudoku"):
        network(str(tmp_path / "odd"))
    with pytest.raises(UserError, match="no such model"):
        network("sudoku99")


# -- the run


def test_verdict(approach):
    """Token m is right once m rate^t < 1/2: 5/2^4 is the first below for 5, the largest."""
    _, film = approach(0.5)
    assert film.right.tolist() == [False] * 3 + [True] * 5
    assert verdict(film).startswith("**Solved** from segment 4 on: ")
    _, film = approach(0.5, segments=3)
    faults = int(film.broken(3).sum())
    assert verdict(film).startswith(f"**Not solved** in 3 segments: {faults} cells")
    assert faults > 0


def test_the_budget_is_told(approach):
    from dataclasses import replace

    _, film = approach(0.5)
    assert "past the training budget" in verdict(replace(film, budget=3))
    assert "past the training budget" not in verdict(replace(film, budget=4))


def test_what_is_seen_after_a_segment(source):
    seen = watch(source, PUZZLE, 4)
    np.testing.assert_array_equal(seen[1].boards, record(tiny_model(), tiny_puzzles(1), 0, 4).boards)
    for t in (0, 4):
        words, cells, lines = show(seen, t)
        assert f"Segment {t} of 4" in words or t == 0
        for picture in (cells, lines):
            assert picture.startswith("<svg")
            assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", picture)
        digits = re.findall(r">([1-4])</text>", cells)
        assert len(digits) == int((seen[1].board(t) > 1).sum())
        assert "training budget" in lines


# -- disturbances


def test_a_kick_of_a_contraction_is_forgotten(approach):
    words, picture = kick(approach(0.5, segments=24), 2, 1.0, 0)
    assert words.startswith("**The same answer**")
    assert picture.startswith("<svg")


def test_no_kick_changes_nothing(source):
    seen = watch(source, PUZZLE, 6)
    assert kick(seen, 2, 0.0, 0)[0].endswith("from segment 3 on.")


def test_a_kick_of_an_identity_is_kept(approach):
    """With rate 1 nothing ever moves, so a large kick stays and the answer is another one."""
    words, _ = kick(approach(1.0), 3, 5.0, 0)
    assert re.match(r"\*\*Another answer\*\*, a wrong one: \d+ of 16 cells differ", words)
    assert kick(approach(1.0), 3, 5.0, 0)[0] == words


@pytest.mark.parametrize("segment", [-1, 8])
def test_a_kick_outside_the_run(approach, segment):
    with pytest.raises(UserError, match="expected 0 to 7"):
        kick(approach(0.5), segment, 1.0, 0)


@pytest.mark.parametrize("rate", [0.5, 1.3])
def test_nearby_starts_part_by_the_exponent_of_the_map(source, rate):
    distance = 1e-3 * rate ** np.arange(12)
    fit = fit_line(distance)
    assert fit.exponent == pytest.approx(np.log(rate))
    assert fit.error < 1e-6
    assert fit.last == (8 if rate < 1 else 11)  # 1e-3/2^9 lies below the floor; 1e-3 * 1.3^11 = 0.018


def test_the_fit_stops_where_the_distance_saturates():
    distance = np.minimum(1e-3 * np.exp(0.7 * np.arange(20)), 0.6)
    fit = fit_line(distance)
    assert fit.exponent == pytest.approx(0.7)
    assert fit.last == 6  # 1e-3 e^(0.7 * 6) = 0.067, then 0.13
    assert np.isnan(fit_line(distance[:3]).exponent)


def test_nearby_starts_of_a_model(source):
    words, picture = nearby(watch(source, PUZZLE, 12))
    assert re.search(r"exponent [+-]\d+\.\d\d nats per segment|No exponent", words)
    assert picture.startswith("<svg")


# -- the page


def test_without_gradio(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "loopscope.cli.play", raising=False)
    code, out, err = run("play")
    assert (code, out) == (2, "")
    assert err == "error: play: needs gradio. Run pip install 'loopscope[play]'.\n"


@pytest.fixture(scope="module")
def address(source: str) -> Any:
    """The page, served on a free port."""
    gradio = pytest.importorskip("gradio", minversion="6")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, local, _ = playground.launch(source, port, prevent_thread_lock=True, quiet=True)
    yield local
    gradio.close_all()


def test_the_page_fetches_nothing_from_elsewhere(address):
    import httpx

    page = httpx.get(address).text
    assert "loopscope playground" in page
    assert not re.findall(r'<(?:script|link)[^>]*(?:src|href)="https?://(?!127\.0\.0\.1)[^"]*"', page)


def test_a_visit(address, source):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    visitor = Client(address, verbose=False)
    with pytest.raises(AppError, match="Press Solve first"):
        visitor.predict(api_name="/nearby")
    with pytest.raises(AppError, match="no Sudoku board has 15 cells"):
        visitor.predict(source, PUZZLE[1:], 5, api_name="/watch")
    visitor.predict(source, PUZZLE, 2, api_name="/watch")
    last, words, cells, _ = visitor.predict(api_name="/play")
    assert last == 2
    assert words.startswith("**Segment 2 of 2**")
    assert visitor.predict(0, api_name="/show")[0] == "**The puzzle**"
    assert visitor.predict(1, 0.0, 0, api_name="/kick")[0].startswith("**The same answer**")
    assert "svg" in cells
    with pytest.raises(AppError, match="expected 0 to 1"):
        visitor.predict(5, 0.0, 0, api_name="/kick")


def test_a_port_that_is_taken(address, source):
    with pytest.raises(UserError, match="taken already"):
        playground.launch(source, int(address.rstrip("/").rsplit(":", 1)[1]), prevent_thread_lock=True)
