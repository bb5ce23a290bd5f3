"""`bench` and `predict` as lines: what they ask, say and refuse. Models answer over real HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelswitch.cli.progress import Progress
from modelswitch.served import Served, _connect
from tests.answering import OK, Answering, Asked, Says, frontend
from tests.site import Site
from tests.terminal import Terminal
from tests.unit.test_cli_json import assert_as_documented

SHORT = ("--clients", "1,2", "--seconds", "1", "--warm-up", "0")


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    with Site(tmp_path) as site:
        yield Terminal(site, capsys)


@pytest.fixture
def server(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """Answers as 1, which is in production, on the default path, else as 2, the candidate."""
    terminal.stand("1")
    terminal.register("2")
    terminal.site.stage(terminal.site.slot("2"))
    digests = {terminal.site.slot(v).label: terminal.site.slot(v).digest for v in ("1", "2")}

    def answer(asked: Asked) -> Says:
        label = asked.path.rpartition("/")[2]
        digest = digests.get(label, terminal.site.slot("1").digest)
        return Says(headers={**OK, "X-Archive-Digest": digest})

    with Answering(answer) as made:
        monkeypatch.setattr(Served, "url", lambda *_: made.url)
        monkeypatch.setattr(
            "tests.terminal.TwinSwitch.served",
            property(lambda switch: Served(switch.rooms, switch.versions, connect=_connect)),
        )
        yield made


def test_bench_measures_what_serves_with_its_golden_request(
    terminal: Terminal, server: Answering
) -> None:
    said = terminal("bench", "digits", *SHORT, "--json")
    assert said.exit == 0, said
    assert_as_documented("bench", said.data)
    slot = terminal.site.slot("1")
    assert {asked.path for asked in server.asked} == {f"/predictions/digits/{slot.label}"}
    assert server.last.json == {"inputs": [1]}
    assert said.data["subject"]["digest"] == slot.digest
    assert said.data["sla"] is None
    assert said.err == ""


def test_bench_measures_a_candidate_with_a_request_of_ones_own(
    terminal: Terminal, server: Answering, tmp_path: Path
) -> None:
    (tmp_path / "mine.json").write_text('{"inputs": [7]}')
    words = ("--input", "mine.json", "--sla-ms", "9999", "--picture", "bench.png")
    said = terminal("bench", "digits@2", *SHORT, *words)
    label = terminal.site.slot("2").label
    assert server.last.json == {"inputs": [7]}
    assert server.last.path.endswith(label)
    head, table, *rest = said.out.splitlines()
    assert head.startswith(f"digits@2 ({label}) at {server.url}: 1 worker, batch size 1; 15 bytes")
    assert "(mine.json)" in head
    assert table.split()[:3] == ["clients", "a", "second"]
    assert rest[2] == "The SLA of 9999 ms (p95, nothing failed) holds at up to 2 clients."
    assert rest[3].startswith("Nothing to change: the server's own times could not be read")
    assert "the picture is in bench.png" in said.err
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "warming" not in said.err  # progress is for terminals


def test_bench_fails_where_nothing_was_answered_any_more(
    terminal: Terminal, server: Answering
) -> None:
    gone = frontend(404, "ModelVersionNotFoundException", "Model version: 1 does not exist")
    server.script = [Says(headers={**OK, "X-Archive-Digest": terminal.site.slot("1").digest}), gone]
    said = terminal("bench", "digits", *SHORT)
    assert said.exit == 1
    last = said.out.splitlines()[-1]
    assert last == "Nothing was answered at 1, 2 clients: modelswitch show digits"
    assert "0.0" not in said.out.splitlines()[2]


def test_bench_takes_the_sla_that_the_version_was_registered_with(
    terminal: Terminal, server: Answering
) -> None:
    terminal.registry.set_tag("digits", "1", "modelswitch.about", '{"latency_sla_ms": 0.001}')
    said = terminal("bench", "digits", *SHORT)
    assert "The SLA of 0.001 ms (p95, nothing failed) does not hold" in said.out
    terminal.registry.set_tag("digits", "1", "modelswitch.about", "somebody's own text")
    assert "No latency SLA is known" in terminal("bench", "digits", *SHORT).out


@pytest.mark.parametrize(
    ("words", "exit", "message"),
    [
        (("bench", "digits@9"), 1, "digits@9 is not loaded"),
        (("bench", "nothing"), 1, "no version was ever staged"),
        (("bench", "digits", "--clients", "1,x"), 2, "like 1,2,4,8,16"),
        (("bench", "digits", "--clients", "0"), 2, "like 1,2,4,8,16"),
        (("bench", "digits", "--input", "none.json"), 2, "none.json cannot be read"),
        (("bench", "digits", "--picture", "no/folder.png"), 2, "no folder no"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_load(
    terminal: Terminal, server: Answering, words: tuple[str, ...], exit: int, message: str
) -> None:
    said = terminal(*words)
    assert (said.exit, server.asked) == (exit, [])
    assert message in said.err


def test_predict_sends_arrays_images_and_tables_as_they_are(
    terminal: Terminal, server: Answering, tmp_path: Path
) -> None:
    array = io.BytesIO()
    np.save(array, np.ones((1, 2)))
    (tmp_path / "a.npy").write_bytes(array.getvalue())
    (tmp_path / "b.dat").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    (tmp_path / "c.csv").write_text("x,y\n1,a\n")
    for name in ("a.npy", "b.dat", "c.csv"):
        assert terminal("predict", "digits", "--input", name).exit == 0
    kinds = [asked.headers["content-type"] for asked in server.asked]
    assert kinds == ["application/x-npy", "image/jpeg", "application/json"]
    assert server.asked[0].body == array.getvalue()
    assert server.last.json == {"dataframe_split": {"columns": ["x", "y"], "data": [[1, "a"]]}}


def test_predict_tells_an_overload_from_nothing_in_production(
    terminal: Terminal, server: Answering, tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text('{"inputs": [1]}')
    line = ("predict", "digits", "--input", "request.json", "--json")
    server.script = [frontend(503, "ServiceUnavailableException", "no worker")]
    full = terminal(*line).document["error"]
    assert (full["code"], full["message"]) == ("server", "digits answered 503: no worker")
    terminal("retire", "digits", "--reason", "x")
    terminal.site.stage(terminal.site.slot("2"))
    nothing = terminal(*line).document["error"]
    assert nothing["message"].startswith("digits has no version in production")
    assert json.dumps(nothing).count("503") == 0


def test_what_is_under_way_is_shown_on_a_terminal() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, file = Screen(), io.StringIO()
    for out in (screen, file):
        progress = Progress(out, "digits")
        progress.step("bench.warm", {"seconds": 3})
        progress.step("bench.point", {"clients": 8, "place": 2, "points": 5})
        progress.clear()
    assert "digits: warming up (3 s)" in screen.getvalue()
    assert "digits: 8 clients (2 of 5)" in screen.getvalue()
    assert file.getvalue() == ""
