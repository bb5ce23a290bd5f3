"""What goes wrong by hand or by weather: one clear message, the right exit code, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from modelswitch.cli.main import run
from modelswitch.errors import NotProven
from modelswitch.moves import Intent
from modelswitch.refs import ModelRef
from tests.stack.deployment import Deployment, Said, wait_for
from tests.stack.models import MODEL, RECIPE, REQUEST

NOBODY = "http://127.0.0.1:9"
NO_DATABASE = "postgresql://postgres@127.0.0.1:9/postgres"
WHY = ("--reason", "x")

Line = Callable[..., Said]


@pytest.fixture
def standing(deployment: Deployment) -> Iterator[Deployment]:
    """2 serves, 1 is the way back, before and after."""
    deployment.stand("2", back="1")
    yield deployment
    assert deployment.all_serve() == {"2"}
    assert deployment.line.default == deployment.slot("2")


@pytest.fixture
def line(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Line:
    """A command line in this process, which has imported what is slow already."""
    monkeypatch.chdir(deployment.settings.root)

    def said(*words: str) -> Said:
        capsys.readouterr()
        code = run(["--json", *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Said(code, out, err)

    return said


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "message"),
    [
        (("promote", "nothing@1", *WHY), 1, "not_found", "nothing"),
        (("promote", f"{MODEL}@99", *WHY), 1, "not_found", "99"),
        (("promote", f"{MODEL}@1", "--to", "heaven", *WHY), 2, "usage", "heaven"),
        (("promote", f"{MODEL}@1"), 2, "usage", "reason"),
        (("promote", "a model/with: colons@1", *WHY), 2, "usage", "a model/with: colons"),
        (("rollback", "nothing", *WHY), 1, "nothing_to_go_back_to", "nothing"),
        (("retire", f"{MODEL}@2", *WHY), 1, "refused", "retired"),
        (("resume", "nothing"), 1, "not_found", "nothing"),
        (("predict", "nothing", "--input", "request.json"), 1, "server", "404"),
        (("predict", MODEL, "--input", "broken.json"), 2, "usage", "not JSON"),
    ],
)
def test_what_is_not_there_or_cannot_be_is_told_in_one_message(
    standing: Deployment,
    line: Line,
    words: tuple[str, ...],
    exit_code: int,
    code: str,
    message: str,
) -> None:
    root = standing.settings.root
    (root / "broken.json").write_text('{"inputs": [1,')
    (root / "request.json").write_text(json.dumps(REQUEST))
    rows = len(standing.switch.history())
    said = line(*words)
    assert (said.exit, said.code) == (exit_code, code), said
    assert message in said.message
    assert len(standing.switch.history()) == rows


def test_a_name_that_mlflow_allows_and_torchserve_does_not(
    standing: Deployment, line: Line
) -> None:
    import mlflow

    client = mlflow.MlflowClient(standing.tracking_uri)
    source = client.get_model_version(MODEL, "1").source
    client.create_registered_model("my model")
    client.create_model_version("my model", source, model_id=source.removeprefix("models:/"))
    said = line("promote", "my model@1", *WHY)
    assert said.exit == 2
    assert "my model" in said.message
    client.delete_registered_model("my model")


def test_a_tensor_of_the_wrong_shape_is_the_callers_fault_and_says_the_right_one(
    standing: Deployment,
) -> None:
    for body in ({"inputs": [[1.0, 2.0, 3.0]]}, {"inputs": [1.0]}, {"inputs": "one"}, {}):
        answer = standing.ask("a", json=body)
        assert 400 <= answer.status_code < 500, answer.text
    assert "2" in standing.ask("a", json={"inputs": [[1.0, 2.0, 3.0]]}).json()["message"]
    broken = {"content": b'{"inputs": [', "headers": {"Content-Type": "application/json"}}
    answer = standing.ask("a", json=None, **broken)
    assert 400 <= answer.status_code < 500, answer.text


def test_what_was_rolled_back_is_promoted_again_only_after_a_lift(
    standing: Deployment, line: Line
) -> None:
    assert line("rollback", MODEL, *WHY).exit == 0
    said = line("promote", f"{MODEL}@2", *WHY)
    assert (said.exit, said.code) == (1, "quarantined")
    assert "quarantine lift" in said.document["error"]["next"]
    again = line("rollback", MODEL, *WHY)
    assert (again.exit, again.code) == (1, "nothing_to_go_back_to")
    assert line("quarantine", "lift", f"{MODEL}@2", *WHY).exit == 0
    assert line("promote", f"{MODEL}@2", *WHY).exit == 0


@pytest.mark.parametrize("how", ["flipped", "truncated", "padded"])
def test_a_damaged_archive_never_reaches_a_server_and_is_built_again(
    standing: Deployment, how: str
) -> None:
    ref, recipe = ModelRef(MODEL, version="3"), {**RECIPE, "max_batch_delay_ms": 30 + len(how)}
    slot = standing.switch.build(ref, recipe=recipe).slot
    stored = next(standing.settings.state_dir.rglob(f"archives/{slot.digest[7:]}.mar"))
    good = stored.read_bytes()
    middle = len(good) // 2
    damaged = {
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "truncated": good[:middle],
        "padded": good + b"more",
    }
    stored.write_bytes(damaged[how])
    with pytest.raises(NotProven, match=r"\.mar") as refused:
        standing.switch.moves.stage(MODEL, slot, Intent("x"))
    assert refused.value.exit == 4
    for store in standing.settings.state_dir.glob("servers/*/store"):
        assert not (store / f"{slot.digest[7:]}.mar").exists()
    assert standing.switch.build(ref, recipe=recipe).slot == slot
    assert stored.read_bytes() == good


@pytest.mark.parametrize(
    "words",
    [
        ("models",),
        ("history", MODEL),
        ("diff",),
        ("show", f"{MODEL}@2"),
        ("promote", f"{MODEL}@1", *WHY),
        ("rollback", MODEL, *WHY),
        ("retire", f"{MODEL}@1", *WHY),
        ("resume",),
        ("quarantine", "lift", f"{MODEL}@1", *WHY),
    ],
    ids=lambda words: words[0],
)
def test_without_its_database_each_verb_says_so_and_changes_nothing(
    standing: Deployment, line: Line, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MODELSWITCH_DATABASE_URL", NO_DATABASE)
    pins = standing.switch.fleet.published()
    said = line(*words)
    assert (said.exit, said.code) == (1, "ledger_unreachable"), said
    assert standing.switch.fleet.published() == pins


def test_a_rollback_by_break_glass_is_recorded_when_the_database_is_back(
    deployment: Deployment, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.stand("2", back="1")
    with monkeypatch.context() as away:
        away.setenv("MODELSWITCH_DATABASE_URL", NO_DATABASE)
        said = line("rollback", MODEL, "--break-glass", "--reason", "the database is away")
        assert said.exit == 0, said
        assert deployment.all_serve() == {"1"}
    assert line("diff").exit == 3
    assert line("resume").exit == 0
    row = deployment.switch.history(MODEL)[0]
    assert (row.action, row.reason) == ("rollback", "the database is away")
    deployment.assert_one_story()


def test_without_mlflow_a_rollback_works_and_its_marks_come_later(
    deployment: Deployment, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.stand("2", back="1")
    rows = len(deployment.switch.history())
    with monkeypatch.context() as away:
        away.setenv("MODELSWITCH_TRACKING_URI", NOBODY)
        cold = line("promote", f"{MODEL}@3", *WHY)
        assert (cold.exit, cold.code) == (1, "registry_unreachable"), cold
        assert len(deployment.switch.history()) == rows
        said = line("rollback", MODEL, *WHY)
        assert said.exit == 0
        assert said.document["data"]["marks"] == "pending"
    assert deployment.all_serve() == {"1"}
    assert any(d.kind == "marks" for d in deployment.switch.diff())
    assert line("resume").exit == 0
    deployment.assert_one_story()
    assert deployment.switch.registry.resolve_alias(MODEL, "production") == "1"


def test_a_fleet_folder_that_somebody_else_writes_to(standing: Deployment, line: Line) -> None:
    fleet = standing.switch.fleet
    pins = standing.settings.fleet_path / "pins.json"
    good = fleet.published().pins

    pins.write_text("rubbish")
    told = line("diff")
    assert told.exit == 3
    assert "pins.json is not JSON" in told.out
    assert line("resume").exit == 0
    standing.assert_one_story()

    pins.write_text(good.model_copy(update={"generation": good.generation - 1}).text)
    wait_for(lambda: all("refused pins" in (r.error or "") for r in fleet.reports()))
    assert standing.all_serve() == {"2"}
    assert line("resume").exit == 0
    standing.assert_one_story()

    pins.write_text(good.model_copy(update={"generation": good.generation + 7}).text)
    said = line("promote", f"{MODEL}@1", *WHY)
    assert (said.exit, said.code) == (1, "pins")
    assert "something else wrote them" in said.message
    assert line("resume", "--outrank", *WHY).exit == 0
    standing.assert_one_story()
