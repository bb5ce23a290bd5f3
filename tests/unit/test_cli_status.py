"""`status`: what is wrong first, what is alike together, and everything in --json."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from modelswitch.cli.fleet_status import FEW, Server, lines, look, pools
from modelswitch.cli.output import Table
from modelswitch.line import label_of
from modelswitch.pins import PinnedModel, PinnedSlot, Pins
from modelswitch.reports import ModelReport, Proof, Report, SlotReport, State
from tests.site import Site, wait_for
from tests.terminal import Terminal

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
OOM = "Traceback (most recent call last):\n  File\nRuntimeError: out of memory: {} MiB of 16000 MiB"


def digest(version: int) -> str:
    return f"sha256:{version:08x}" + "0" * 56


def label(version: int) -> str:
    return label_of(str(version), digest(version))


def pinned(default: int, *back: int, pool: str) -> PinnedModel:
    slots = {label(v): PinnedSlot(digest=digest(v), workers=1) for v in (default, *back)}
    return PinnedModel(
        pool=pool, default=label(default), back=tuple(label(v) for v in back), slots=slots
    )


PINS = Pins(
    schema=1,
    deployment="d",
    generation=41,
    models={
        "digits": pinned(4, 3, pool="classifier"),
        "faces": pinned(2, pool="classifier"),
        "tabular": pinned(7, pool="features"),
    },
)


def report(server: str, pool: str = "classifier", **changes: Any) -> Report:
    """Of a server that is as pinned, but for `changes`."""
    models = {
        name: ModelReport(
            default=model.default,
            proof=Proof(digest=model.slots[str(model.default)].digest, at=NOW - timedelta(hours=1)),
            slots={x: SlotReport(state=State.PROVEN, workers=1) for x in model.slots},
        )
        for name, model in PINS.of_pool(pool).items()
    }
    fields = {
        "server": server,
        "pool": pool,
        "boot_id": "b",
        "at": NOW,
        "heartbeat_at": NOW,
        "generation": 41,
        "models": models,
    }
    return Report(**{**fields, **changes})


def with_slot(state: State, error: str | None = None) -> dict[str, ModelReport]:
    """The models of a server whose digits@4 is not proven."""
    models = report("x").models
    slots = {**models["digits"].slots, label(4): SlotReport(state=state, error=error)}
    broken = models["digits"].model_copy(update={"default": label(3), "slots": slots})
    return {**models, "digits": broken}


def fleet_of(well: int) -> list[Report]:
    """`well` classifiers and two features as pinned; beside them each kind of trouble."""
    names = (f"pod-{n:04}" for n in range(10_000))
    found = [report(next(names)) for _ in range(well)]
    found += [report(next(names), generation=40) for _ in range(3)]
    found += [
        report(
            next(names),
            healthy=False,
            error="not yet proven here: digits",
            models=with_slot(State.FAILED, OOM.format(13 + n)),
        )
        for n in range(217)
    ]
    found += [report(next(names), heartbeat_at=NOW - timedelta(seconds=600 + n)) for n in range(2)]
    found.append(report(next(names), models=with_slot(State.LOADING)))
    return [*found, report("f-1", "features"), report("f-2", "features")]


def told(reports: list[Report]) -> list[str]:
    shown = lines(look(reports, PINS, NOW), 41)
    assert all(isinstance(line, str) for line in shown)
    return [str(line) for line in shown]


def test_a_thousand_are_told_by_pool_and_by_trouble_the_worst_first() -> None:
    shown = told(fleet_of(777))
    assert shown[0] == "classifier  995 of 1,000 at generation 41, 3 behind, 2 down"
    kinds = [line.split()[:2] for line in shown[1:6]]
    assert kinds == [
        ["down", "2"],
        ["failing", "217"],
        ["behind", "3"],
        ["loading", "1"],
        ["well", "777"],
    ]
    why = "digits@4 failed: RuntimeError: out of memory: 13 MiB of 16000 MiB (or alike)"
    assert shown[2].endswith(f"217  {why}: pod-0780, pod-0781, pod-0782 and 214 more")
    assert shown[3].endswith("at generation 40: pod-0777, pod-0778, pod-0779")
    assert "digits@4 since 2026-05-01" in shown[5]
    assert "faces@2 since" in shown[5]
    assert len(shown) == 8
    assert shown[6] == "features  2 of 2 at generation 41"
    assert shown[7].startswith("  well         2  tabular@7 since ")


def test_the_pool_that_is_worst_off_is_told_first() -> None:
    reports = [report(f"c-{n}") for n in range(20)]
    reports += [report("f-1", "features", heartbeat_at=NOW - timedelta(hours=1))]
    assert told(reports)[0] == "features  0 of 1 at generation 41, 1 down"


def test_different_troubles_are_not_thrown_together() -> None:
    reports = [report(f"w-{n}") for n in range(20)]
    reports += [report("a", generation=40), report("b", generation=39), report("c", generation=42)]
    reports += [report("d", models=with_slot(State.FAILED, "KeyError: 'w1'"))]
    reports += [report("e", models=with_slot(State.FAILED, "KeyError: 'w2'"))]
    troubles = [(t.why, t.servers) for t in pools(look(reports, PINS, NOW), 41)[0].troubles]
    assert troubles == [
        ("digits@4 failed: KeyError: 'w1'", ("d",)),
        ("digits@4 failed: KeyError: 'w2'", ("e",)),
        ("at generation 40", ("a",)),
        ("at generation 39", ("b",)),
        ("at generation 42, above what is published", ("c",)),
    ]


def test_of_very_many_troubles_the_worst_are_told_and_the_rest_counted() -> None:
    reports = [report(f"s-{n}", generation=n) for n in range(30)]
    shown = told(reports)
    assert len(shown) == 12
    assert shown[-1] == "  and 20 other troubles, on 20 servers: --json tells them all"


def test_a_pool_that_holds_many_models_names_what_moved_last() -> None:
    moved = {"m7": NOW, "m3": NOW - timedelta(minutes=5)}
    models = {
        f"m{n}": ModelReport(
            default=label(1),
            proof=Proof(digest=digest(1), at=moved.get(f"m{n}", NOW - timedelta(days=n + 1))),
        )
        for n in range(9)
    }
    pins = Pins(schema=1, deployment="d", generation=41)
    servers = look([report(f"s-{n}", models=models) for n in range(20)], pins, NOW)
    well = str(lines(servers, 41)[1])
    assert re.findall(r"m\d(?=@1)", well) == ["m7", "m3", "m0", "m1"]
    assert well.endswith(" and 5 more models")


def test_a_few_servers_have_a_row_each_the_worst_first() -> None:
    reports = [report(f"s-{n:02}") for n in range(FEW - 1)]
    reports.append(report("s-99", heartbeat_at=NOW - timedelta(hours=1)))
    (table,) = lines(look(reports, PINS, NOW), 41)
    assert isinstance(table, Table)
    assert table.headings[:3] == ("server", "pool", "generation")
    assert table.rows[0][:3] == ("s-99", "classifier", "41 of 41")
    assert table.rows[0][-1] == "down: no heartbeat since 2026-05-01T11:00:00+00:00"
    assert [row[-1] for row in table.rows if row[0]].count("well") == FEW - 1


@pytest.mark.parametrize(
    ("changes", "state", "why"),
    [
        ({}, "well", None),
        ({"heartbeat_at": NOW - timedelta(seconds=11)}, "down", "no heartbeat since"),
        ({"models": with_slot(State.FAILED, "a\nb")}, "failing", "digits@4 failed: b"),
        ({"models": with_slot(State.LOADING)}, "loading", "loads digits@4"),
        ({"generation": 40, "error": "refused"}, "behind", "at generation 40: refused"),
        ({"error": "the pins were refused"}, "failing", "the pins were refused"),
        ({"healthy": False}, "failing", "not healthy"),
    ],
)
def test_why_a_server_is_not_well(changes: dict[str, Any], state: str, why: str | None) -> None:
    (found,) = look([report("a", **changes)], PINS, NOW)
    assert found.state == state
    assert (found.why or "").startswith(why or "")
    assert (found.why is None) == (why is None)


def test_too_few_workers_are_not_well() -> None:
    model = pinned(4, pool="classifier")
    two = {x: s.model_copy(update={"workers": 2}) for x, s in model.slots.items()}
    models = {"digits": model.model_copy(update={"slots": two})}
    (found,) = look([report("a")], PINS.model_copy(update={"models": models}), NOW)
    assert (found.state, found.why) == ("loading", "loads digits@4")


def test_pins_that_cannot_be_read_accuse_no_server() -> None:
    servers = look([report(f"s-{n}") for n in range(20)], None, NOW)
    assert {server.state for server in servers} == {"well"}
    assert lines(servers, None)[0] == "classifier  20 of 20"


def test_json_tells_every_slot_of_every_server() -> None:
    (found,) = look([report("a", models=with_slot(State.FAILED, "boom"))], PINS, NOW)
    data = found.data(41)
    assert data["generation"] == {"wanted": 41, "applied": 41}
    assert data["models"]["digits"]["slots"][label(4)] == {
        "state": "failed",
        "workers": 0,
        "error": "boom",
        "memory_bytes": None,
    }
    assert data["models"]["faces"]["default"] == label(2)
    assert data["models"]["faces"]["proven_at"] == "2026-05-01T11:00:00Z"


def test_a_thousand_are_grouped_and_rendered_in_a_fraction_of_a_second() -> None:
    reports = fleet_of(777)
    began = time.process_time()
    servers: list[Server] = look(reports, PINS, NOW)
    lines(servers, 41)
    json.dumps([server.data(41) for server in servers], indent=2)
    assert time.process_time() - began < 1.0


@pytest.fixture
def terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    with Site(tmp_path, pools={"b": "features"}) as site:
        yield Terminal(site, capsys)


def test_a_pool_can_be_looked_at_alone(terminal: Terminal) -> None:
    terminal.stand("1")
    wait_for(lambda: terminal("status").exit == 0)
    terminal.site.silence("b")
    assert terminal("status").exit == 3
    alone = terminal("status", "--pool", "default", "--json")
    assert alone.exit == 0
    assert [server["name"] for server in alone.data["fleet"]["servers"]] == ["a"]
    assert [pool["name"] for pool in alone.data["fleet"]["pools"]] == ["default"]
    unknown = terminal("status", "--pool", "gpu")
    assert (unknown.exit, "known: default, features" in unknown.err) == (1, True)


def test_spoilt_and_missing_pins_are_told_beside_the_servers(terminal: Terminal) -> None:
    terminal.stand("1")
    wait_for(lambda: terminal("status").exit == 0)
    terminal.site.fleet.pins_file.write_text("{")
    said = terminal("status", "--json")
    assert (said.exit, said.data["fleet"]["generation"]) == (3, None)
    assert "is not JSON" in said.data["fleet"]["why_not"]
    assert len(said.data["fleet"]["servers"]) == 2
    terminal.site.fleet.pins_file.unlink()
    said = terminal("status")
    assert (said.exit, "no pins are published any more" in said.out) == (3, True)


def test_on_kubernetes_nothing_is_said_of_a_stack_that_is_not_there(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.stand("1")
    assert "no local stack runs here" in terminal("status").out
    monkeypatch.setenv("MODELSWITCH_FLEET__KIND", "kubernetes")
    said = terminal("status")
    assert "stack" not in said.out
    assert said.out.startswith("server  ")
