"""up, down, status: what runs is ours, healthy and on loopback, and nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg2
import pytest

from modelswitch.errors import StackError
from modelswitch.local import processes
from modelswitch.local.addresses import STATE_FILE, addresses, read_state
from modelswitch.local.ports import server_ports
from modelswitch.local.stack import Stack
from modelswitch.settings import Settings
from tests.contract.servers import loaded, write_archive
from tests.stack.machine import free_port_base, is_free, ports_of

PATIENCE_S = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def pids(stack: Stack) -> dict[str, int]:
    state = read_state(stack.settings)
    return {name: member.pid for name, member in state.members.items()} if state else {}


def family(stack: Stack) -> list[psutil.Process]:
    return [p for pid in pids(stack).values() for p in processes.tree(psutil.Process(pid))]


def assert_nothing_is_left(stack: Stack, stack_id: str, members: list[psutil.Process]) -> None:
    assert processes.with_id(stack_id) == []
    assert [p for p in members if processes.is_alive(p)] == []
    assert not (stack.settings.state_dir / STATE_FILE).exists()
    assert all(is_free(port) for port in ports_of(stack.settings.local.port_base, servers=2))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    """A stack whose database and MLflow run elsewhere: one TorchServe, quick to start."""
    running = Stack(
        Settings.model_validate(
            {
                "local": {"port_base": free_port_base(2)},
                "root": tmp_path,
                "tracking_uri": "http://127.0.0.1:9",
                "database_url": f"sqlite:///{tmp_path / 'ledger.db'}",
            }
        )
    )
    yield running
    running.down()


UP = """
import sys
from modelswitch import effects
from modelswitch.local.stack import Stack
from modelswitch.settings import Settings
stack = Stack(Settings.model_validate_json(sys.argv[1]))
with effects.watching(progress=lambda name, _: name == "stack.up" and print(name, flush=True)):
    stack.up(agents=False, foreground=len(sys.argv) > 2)
print("up", len(stack.status().members))
"""


def up_elsewhere(stack: Stack, *, foreground: bool = False) -> subprocess.Popen[str]:
    """`up` in another process, whose output is read through a pipe, as by a script."""
    local = stack.settings.local.model_copy(update={"state_dir": stack.settings.state_dir})
    settings = stack.settings.model_copy(update={"local": local})
    arguments = [settings.model_dump_json(exclude_none=True), *(["foreground"] * foreground)]
    return subprocess.Popen(
        [sys.executable, "-c", UP, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_everything_is_up_healthy_and_answers(stack: Stack) -> None:
    status = stack.status()

    assert status.is_healthy, [(m.name, m.why_not) for m in status.members]
    assert all(m.log.exists() for m in status.members)
    found = addresses(stack.settings)
    assert httpx.get(f"{found.tracking_uri}/health").status_code == 200
    psycopg2.connect(found.database_url.replace("+psycopg2", "")).close()
    for server in found.servers:
        assert httpx.get(f"{server.inference_url}/ping").json() == {"status": "Healthy"}
        assert httpx.get(f"{server.management_url}/models").status_code == 200


def test_up_again_changes_nothing(stack: Stack) -> None:
    before = pids(stack)

    status = stack.up()

    assert status.is_healthy
    assert pids(stack) == before


def test_a_server_and_its_agent_killed_together_come_back(stack: Stack) -> None:
    before = pids(stack)
    killed = {"torchserve-a", "agent-a"} & set(before)

    for name in killed:
        os.kill(before[name], signal.SIGKILL)

    wait_for(lambda: all(pids(stack).get(name) not in (None, before[name]) for name in killed))
    wait_for(lambda: stack.status().is_healthy)
    assert {n: pid for n, pid in pids(stack).items() if n not in killed} == {
        n: pid for n, pid in before.items() if n not in killed
    }


def test_only_loopback_is_listened_on(stack: Stack) -> None:
    listening = {
        connection.laddr.ip
        for process in family(stack)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }

    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_no_argument_of_any_process_tells_where_the_database_is(stack: Stack) -> None:
    url = stack.addresses.database_url

    assert [p for p in family(stack) if any(url in word for word in p.cmdline())] == []


def test_archives_are_taken_from_the_model_store_only(stack: Stack, tmp_path: Path) -> None:
    archive = write_archive(tmp_path, "elsewhere")
    server = stack.addresses.servers[0]

    url = (tmp_path / archive.file).as_uri()
    answer = httpx.post(f"{server.management_url}/models", params={"url": url})

    assert answer.status_code == 404, answer.text


async def test_down_stops_the_workers_too(small: Stack) -> None:
    from modelswitch.servers.torchserve import TorchServe

    small.up(agents=False)
    state = read_state(small.settings)
    assert state is not None
    server = small.addresses.servers[0]
    client = TorchServe(server.inference_url, server.management_url)
    archive = write_archive(small.folders.model_store("a"), "digits")
    version = await loaded(client, archive)
    await client.close()
    members = [*family(small), psutil.Process(version.workers[0].pid)]

    assert small.down()

    assert_nothing_is_left(small, state.id, members)
    assert not small.status().is_up
    assert not small.down()


async def test_workers_whose_server_was_killed_are_stopped_too(small: Stack) -> None:
    from modelswitch.servers.torchserve import TorchServe

    small.up(agents=False)
    state = read_state(small.settings)
    assert state is not None
    server = small.addresses.servers[0]
    client = TorchServe(server.inference_url, server.management_url)
    version = await loaded(client, write_archive(small.folders.model_store("a"), "digits"))
    await client.close()
    members = [*family(small), psutil.Process(version.workers[0].pid)]
    os.kill(pids(small)["keeper"], signal.SIGKILL)
    os.kill(pids(small)["torchserve-a"], signal.SIGKILL)

    small.down()

    assert_nothing_is_left(small, state.id, members)


def test_what_dies_is_started_again_by_the_keeper(small: Stack) -> None:
    small.up(agents=False)
    before = pids(small)

    os.kill(before["torchserve-a"], signal.SIGKILL)

    wait_for(lambda: pids(small).get("torchserve-a") not in (None, before["torchserve-a"]))
    wait_for(lambda: small.status().is_healthy)
    assert pids(small)["keeper"] == before["keeper"]


def test_up_starts_again_what_has_died_the_keeper_too(small: Stack) -> None:
    small.up(agents=False)
    before = pids(small)
    for name in ("keeper", "torchserve-a"):
        os.kill(before[name], signal.SIGKILL)
    wait_for(lambda: not small.status().is_healthy)

    status = small.up(agents=False)

    assert status.is_healthy
    assert set(pids(small)) == set(before)
    assert not set(pids(small).values()) & set(before.values())


def test_a_second_server_is_added_and_none_is_taken_away(small: Stack) -> None:
    small.up(agents=False)
    before = pids(small)

    status = small.up(servers=2, agents=False)

    assert status.is_healthy
    assert {m.name for m in status.members} == {"torchserve-a", "torchserve-b", "keeper"}
    assert before.items() <= pids(small).items()
    for wrong in ({"servers": 1}, {"port_base": 20_000}):
        with pytest.raises(StackError, match="neither can be changed"):
            small.up(**wrong)  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_named_with_who_has_it(small: Stack) -> None:
    port = server_ports(small.settings.local.port_base, 0).management
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()

        with pytest.raises(StackError, match=f"port {port}.*pid {os.getpid()}") as caught:
            small.up(agents=False)

    assert "--port-base" in (caught.value.next or "")
    assert pids(small) == {}


def test_a_failed_start_shows_the_last_lines_and_leaves_nothing(
    small: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho this machine has no memory left\nexit 7\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))

    with pytest.raises(StackError, match=r"torchserve-[ab].*exit code 7[\s\S]*no memory left"):
        small.up(agents=False, servers=2)

    assert pids(small) == {}
    assert not (small.settings.state_dir / STATE_FILE).exists()
    assert all(is_free(port) for port in ports_of(small.settings.local.port_base, servers=2))


def test_a_stranger_with_a_recycled_pid_is_left_alone(small: Stack) -> None:
    small.up(agents=False)
    os.kill(pids(small)["keeper"], signal.SIGKILL)
    path = small.settings.state_dir / STATE_FILE
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state = json.loads(path.read_text())
        state["members"]["keeper"] |= {"pid": stranger.pid, "created": time.time() - 100}
        path.write_text(json.dumps(state))

        small.down()

        assert stranger.poll() is None
        stranger.kill()


def test_up_returns_although_what_it_started_lives_on(small: Stack) -> None:
    up = up_elsewhere(small)

    output, _ = up.communicate(timeout=PATIENCE_S)

    assert (up.returncode, output) == (0, "up 2\n")
    assert small.status().is_healthy


def test_two_ups_at_once_start_one_stack(small: Stack) -> None:
    both = [up_elsewhere(small), up_elsewhere(small)]

    outputs = [up.communicate(timeout=PATIENCE_S)[0] for up in both]

    assert outputs == ["up 2\n", "up 2\n"]
    state = read_state(small.settings)
    assert state is not None
    assert {p.pid for p in processes.with_id(state.id)} == {p.pid for p in family(small)}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_the_stack_ends_with_the_command(small: Stack, how: int) -> None:
    up = up_elsewhere(small, foreground=True)
    assert up.stdout is not None
    assert up.stdout.readline() == "stack.up\n"
    state = read_state(small.settings)
    assert state is not None
    members = family(small)

    up.send_signal(how)

    output, _ = up.communicate(timeout=PATIENCE_S)
    assert (up.returncode, output) == (0, "up 0\n")
    assert_nothing_is_left(small, state.id, members)


def test_ctrl_c_while_it_starts_leaves_nothing(small: Stack) -> None:
    up = up_elsewhere(small)
    wait_for(lambda: "torchserve-a" in pids(small))
    state = read_state(small.settings)
    assert state is not None
    members = family(small)

    up.send_signal(signal.SIGINT)

    output, _ = up.communicate(timeout=PATIENCE_S)
    assert up.returncode != 0
    assert "KeyboardInterrupt" in output
    assert_nothing_is_left(small, state.id, members)


def test_an_up_that_was_killed_leaves_nothing_that_the_next_cannot_find(small: Stack) -> None:
    up = up_elsewhere(small)
    wait_for(lambda: "torchserve-a" in pids(small))
    up.kill()
    up.communicate()

    status = small.up(agents=False)

    assert status.is_healthy, [(m.name, m.why_not) for m in status.members]
    state = read_state(small.settings)
    assert state is not None
    assert {p.pid for p in processes.with_id(state.id)} == {p.pid for p in family(small)}


def test_a_postgresql_that_was_not_noted_is_stopped_too() -> None:
    # Not in pytest's folder: it is root's alone, where PostgreSQL runs as another user
    with tempfile.TemporaryDirectory(prefix="modelswitch-stack-") as root:
        local = {"port_base": free_port_base()}
        values = {"local": local, "root": root, "tracking_uri": "http://127.0.0.1:9"}
        running = Stack(Settings.model_validate(values))
        running.up(agents=False)
        members = family(running)
        path = running.settings.state_dir / STATE_FILE
        state = json.loads(path.read_text())
        del state["members"]["postgresql"]
        path.write_text(json.dumps(state))

        running.down()

        assert_nothing_is_left(running, state["id"], members)


def test_a_server_that_cannot_be_added_is_not_tried_again(small: Stack) -> None:
    small.up(agents=False)
    before = pids(small)
    port = server_ports(small.settings.local.port_base, 1).metrics
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        with pytest.raises(StackError, match=f"port {port}"):
            small.up(servers=2, agents=False)
    (small.folders.server("b") / "config.properties").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        small.up(servers=2, agents=False)

    state = read_state(small.settings)
    assert state is not None
    assert (state.servers, pids(small)) == (1, before)
    assert small.status().is_healthy
