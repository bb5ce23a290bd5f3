"""`--json`: every verb's document has the keys that docs/json.md shows, errors' too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelswitch.archive.contest import Tried
from modelswitch.archive.recipe import Recipe
from modelswitch.cli.session import Session
from modelswitch.local.addresses import addresses
from modelswitch.local.folders import Folders
from modelswitch.local.status import MemberStatus, StackStatus
from modelswitch.switch import ModelSwitch
from tests.site import Site, wait_for
from tests.terminal import Terminal

GUIDE = Path(__file__).parents[2] / "docs" / "json.md"
EXAMPLES = {
    name: json.loads(text)
    for name, text in re.findall(
        r"```json (\S+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL
    )
}
# Below these, keys are names, or free.
FREE = {"models", "tags", "links", "evidence", "answer", "a_second"}


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)  # whose settings and state folder are those of the site
    with Site(tmp_path) as site:
        yield Terminal(site, capsys)


def assert_as_documented(name: str, data: Any) -> None:
    assert data, f"nothing to compare with the example of {name}"
    assert_like(EXAMPLES[name], data, name)


def assert_like(example: Any, found: Any, where: str) -> None:
    """The same keys all the way down; an empty list or a null fits anything."""
    if isinstance(example, dict) and found is not None:
        assert set(found) == set(example), where
        for key in example.keys() - FREE:
            assert_like(example[key], found[key], f"{where}.{key}")
    elif isinstance(example, list):
        assert isinstance(found, list), where
        for item in found if example else []:
            assert_like(example[0], item, f"{where}[]")
    elif example is not None and found is not None:
        assert type(found) is type(example), where


def test_promote_to_staging_and_to_production(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.register("2")
    staged = terminal("promote", "digits@2", "--to", "staging", "--reason", "try", "--json")
    assert staged.exit == 0
    assert (staged.data["from"], staged.data["to"]) == ("1", "2")
    assert staged.data["stage"] == "staging"
    assert_as_documented("promote", staged.data)
    done = terminal("--json", "promote", "digits@2", "--reason", "better")
    assert done.document["ok"] is True
    assert done.document["command"] == "promote"
    assert [s["name"] for s in done.data["servers"]] == ["a", "b"]
    assert done.data["marks"] == "done"
    assert terminal.site.all_answer() == {"2"}


def test_rollback_and_its_dry_run(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    before = len(terminal.site.ledger.history())
    dry = terminal("rollback", "digits", "--dry-run", "--json")
    assert (dry.exit, dry.document["ok"], dry.document["error"]) == (3, False, None)
    assert (dry.data["from"], dry.data["to"], dry.data["warm"]) == ("2", "1", True)
    assert_as_documented("dry-run", dry.data)
    assert len(terminal.site.ledger.history()) == before
    done = terminal("rollback", "digits", "--reason", "slow", "--json")
    assert (done.exit, done.data["from"], done.data["to"]) == (0, "2", "1")
    assert_as_documented("promote", done.data | {"stage": "production"})
    listed = terminal("quarantine", "list", "--json")
    assert listed.document["command"] == "quarantine list"
    assert_as_documented("quarantine-list", listed.data)
    shown = terminal("show", "digits@2", "--json").data
    assert shown["quarantined"]["reason"] == "slow"
    assert shown["stage"] == "archived"
    assert_as_documented("show", shown)


def test_scale_and_its_dry_run(terminal: Terminal) -> None:
    terminal.stand("1")
    line = ("scale", "digits", "--workers", "2", "--json")
    dry = terminal(*line, "--dry-run")
    assert (dry.exit, dry.data["from"], dry.data["to"]) == (3, 1, 2)
    assert_as_documented("scale-dry-run", dry.data)
    assert terminal(*line).document["error"]["code"] == "usage"  # no reason
    done = terminal(*line, "--reason", "more callers")
    assert (done.exit, done.data["changed"]) == (0, True)
    assert_as_documented("scale", done.data)
    again = terminal(*line, "--reason", "more callers")
    assert (again.exit, again.data["changed"]) == (0, False)
    assert_as_documented("scale", again.data)


def test_models_and_history(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    terminal.register("3")
    terminal("promote", "digits@3", "--to", "staging", "--reason", "try")
    models = terminal("models", "--json").data
    assert_as_documented("models", models)
    assert (models[0]["production"], models[0]["staging"]) == ("2", ["3"])
    assert models[0]["ways_back"] == [{"version": "1", "warm": True}]
    rows = terminal("history", "digits", "--limit", "1", "--json").data
    assert len(rows) == 1
    assert_as_documented("history", rows[:1])


def test_diff_names_a_silent_server_and_exits_3(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.site.silence("b")
    said = terminal("diff", "--json")
    assert said.exit == 3
    assert said.document["error"] is None
    assert_as_documented("diff", [d for d in said.data if d["kind"] == "server"])


def test_status_tells_each_server(terminal: Terminal) -> None:
    terminal.stand("1")
    said = wait_for(lambda: _fine(terminal))
    assert_as_documented("status", said)
    assert {s["name"] for s in said["fleet"]["servers"]} == {"a", "b"}
    terminal.site.silence("a")
    down = terminal("status", "--json")
    assert down.exit == 3
    assert down.data["fleet"]["servers"][0]["why_not"].startswith("down")


def _fine(terminal: Terminal) -> Any:
    said = terminal("status", "--json")
    return said.data if said.exit == 0 else None


def test_predict_names_who_answered(terminal: Terminal, tmp_path: Path) -> None:
    terminal.stand("1", "2")
    request = tmp_path / "request.json"
    request.write_text('{"inputs": [1]}')
    said = terminal("predict", "digits", "--input", str(request), "--json", "--timeout", "7")
    assert said.data["answered_by"] == "digits@2"
    assert_as_documented("predict", said.data)
    client = terminal.switches[-1].client
    assert client is not None
    assert client.timeout_s == 7
    older = terminal("predict", "digits@1", "--input", str(request), "--json")
    assert older.data["answered_by"] == "digits@1"


def test_register_and_build(terminal: Terminal) -> None:
    line = ("register", "runs:/0/model", "--name", "digits", "--tag", "task=digits", "--json")
    made = terminal(*line)
    assert made.data["tags"] == {"task": "digits"}
    assert_as_documented("register", made.data)
    assert_as_documented("build", terminal("build", "digits@1", "--json").data)


def test_engines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*_: Any, **__: Any) -> Iterator[Tried]:
        yield Tried("eager", Recipe(), None, 0.3, {1: 3e3, 8: 8e3}, 7 << 28, 2 << 17, 0.0, None)
        yield Tried(
            "onnx", Recipe(engine="onnx"), None, 0.1, {1: 1e4, 8: 2e4}, 1 << 26, 2 << 17, 1e-7
        )
        yield Tried("bf16", Recipe(engine="bf16"), why="digits@1: no operator aten.fancy")

    monkeypatch.setattr(ModelSwitch, "engines", tried)

    said = terminal("engines", "digits@1", "--json")
    shown = terminal("engines", "digits@1")

    assert_as_documented("engines", said.data)
    assert said.data["fastest"] == "onnx"
    assert [one["may_serve"] for one in said.data["engines"]] == [True, True, False]
    for text in ("onnx *", "20,000", "bf16: digits@1: no operator aten.fancy", 'engine = "onnx"'):
        assert text in shown.out


def test_pins_are_the_canonical_text(terminal: Terminal) -> None:
    terminal.stand("1")
    published = terminal.site.fleet.published()
    assert published is not None
    assert terminal("pins", "export").out == published.pins.text
    assert terminal("pins", "show", "--json").data == json.loads(published.pins.text)
    manifest = json.loads(terminal("pins", "export", "--format", "configmap").out)
    assert manifest["data"]["pins.json"] == published.pins.text


def test_an_undone_promotion_is_exit_4_with_the_worker_error(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.register("2")
    terminal.site.twins["b"].faults.unloadable.add(terminal.site.slot("2").label)
    said = terminal("promote", "digits@2", "--reason", "better", "--json")
    assert (said.exit, said.document["exit"], said.document["ok"]) == (4, 4, False)
    assert_as_documented("envelope", said.document)
    assert said.document["error"]["code"] == "server_not_proven"
    assert "digits@1 serves" in said.document["error"]["message"]
    assert terminal.site.all_answer() == {"1"}


@pytest.mark.parametrize(
    ("line", "exit", "code", "command"),
    [
        (("promote", "--json"), 2, "usage", "promote"),
        (("promote", "digits@1", "--json"), 2, "usage", "promote"),
        (("promote", "digits@1", "--to", "shelf", "--json"), 2, "usage", "promote"),
        (("--json", "nonsense"), 2, "usage", ""),
        (("--json",), 2, "usage", ""),
        (("quarantine", "lift", "--what", "--json"), 2, "usage", "quarantine lift"),
        (("show", "digits@9", "--json"), 1, "not_found", "show"),
        (("rollback", "digits", "--json"), 1, "nothing_to_go_back_to", "rollback"),
        (("agent", "forget", "z", "--json"), 1, "not_found", "agent forget"),
        (("predict", "digits", "--input", "none.json", "--json"), 2, "usage", "predict"),
    ],
)
def test_errors_have_the_envelope_too(
    terminal: Terminal, line: tuple[str, ...], exit: int, code: str, command: str
) -> None:
    said = terminal(*line)
    assert (said.exit, said.document["exit"]) == (exit, exit)
    assert said.document["command"] == command
    assert said.document["error"]["code"] == code
    assert_as_documented("envelope", said.document)


def test_resume_answers_what_it_concluded(terminal: Terminal) -> None:
    terminal.stand("1")
    assert terminal("resume", "--json").data == []
    assert terminal("resume", "--dry-run", "--json").exit == 0


def test_up_down_and_status_tell_of_the_stack(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = datetime(2026, 1, 31, tzinfo=UTC)
    member = MemberStatus("mlflow", 7, since, "", Path("mlflow.log"), None)
    told = StackStatus((member,), addresses(terminal.site.settings))
    asked: list[dict[str, Any]] = []

    class ToldStack:
        def refuse_pods(self) -> None:
            """It has none."""

        def up(self, **options: Any) -> StackStatus:
            asked.append(options)
            return told

        def down(self) -> bool:
            return True

        def status(self) -> StackStatus:
            return told

    monkeypatch.setattr(Session, "stack", ToldStack())
    up = terminal("up", "--servers", "2", "--json")
    assert up.data["members"][0]["since"] == "2026-01-31T00:00:00Z"
    assert_as_documented("status", {"stack": up.data, "fleet": EXAMPLES["status"]["fleet"]})
    assert asked == [{"servers": 2, "port_base": None, "foreground": False}]
    assert terminal("up", "--dry-run").exit == 0
    assert terminal("down", "--dry-run").exit == 3
    assert terminal("down", "--json").data == {"stopped": True}
    assert "http://127.0.0.1:5000" in terminal("up").out


def test_doctor_names_each_check_and_fails_for_a_silent_agent(terminal: Terminal) -> None:
    terminal.stand("1")
    terminal.site.silence("b")
    said = terminal("doctor", "--json")
    assert said.exit == 1
    assert_as_documented("doctor", said.data)
    states = {check["check"]: check["state"] for check in said.data}
    assert (states["database"], states["mlflow server"], states["agent b"]) == ("ok", "ok", "fail")


def test_logs_are_the_workers_lines_of_that_version(terminal: Terminal) -> None:
    terminal.stand("1", "2")
    folder = Folders(terminal.site.settings.state_dir).server_logs("a")
    folder.mkdir(parents=True)
    lines = [
        f"2026-01-31T12:00:0{version},000 [INFO ] W-9000-digits_{version}-ab12cd34-stdout "
        f"MODEL_LOG - hello from {version}"
        for version in (1, 2)
    ]
    (folder / "model_log.log").write_text("\n".join(lines) + "\n")
    said = terminal("logs", "digits@2", "--json").data
    assert [line["text"] for line in said] == ["hello from 2"]
    assert set(said[0]) == {"server", "at", "worker", "label", "text"}
    assert len(terminal("logs", "digits", "--json").data) == 2
    files = terminal("logs", "--json", "--lines", "1").data
    assert files == [{"log": str(folder / "model_log.log"), "lines": [lines[1]]}]
    assert terminal("logs", "--server", "z").exit == 1


def test_adopt_lists_and_takes_what_mlflow_calls_production(terminal: Terminal) -> None:
    terminal.register("1", "2")
    terminal.registry.set_alias("digits", "production", "2")
    assert terminal("adopt", "--json").data == ["digits"]
    assert terminal("adopt", "digits", "--dry-run").exit == 3
    done = terminal("adopt", "digits", "--reason", "it was here before", "--json")
    assert (done.exit, done.data["from"], done.data["to"]) == (0, None, "2")
    assert terminal.site.all_answer() == {"2"}
    assert terminal("adopt", "--json").data == []
