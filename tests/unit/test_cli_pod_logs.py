"""`logs` where servers are pods: whose logs are read, what of them is shown.

A pod of the test cluster prints nothing, so the body of a log comes from a small HTTP server that
answers as the API server's `pods/NAME/log` does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from modelswitch.cli.pod_logs import Case, Wanted, cases, choose, errors_of_undone
from modelswitch.errors import FleetUnreachable, NotFound
from modelswitch.fleet import FolderFleet
from modelswitch.fleet.kubernetes import KubernetesFleet
from modelswitch.reports import ModelReport, Report, SlotReport, State
from modelswitch.settings import Fleet, Settings
from tests.site import Site
from tests.terminal import Terminal

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
FOUR, THREE = "4-ab12cd34", "3-99fe0412"
PINNED = {FOUR, THREE}


def report(
    server: str, state: State | None = State.PROVEN, error: str = "", **more: object
) -> Report:
    """With digits@3, and digits@4 in `state`; None: not there."""
    slots = {THREE: SlotReport(state=State.PROVEN, workers=1)}
    if state is not None:
        slots[FOUR] = SlotReport(state=state, error=error or None)
    fields = {"boot_id": "b", "at": NOW, "heartbeat_at": NOW, "models": {}}
    models = {"digits": ModelReport(default=THREE, slots=slots)}
    return Report(**{**fields, "server": server, "models": models, **more})  # type: ignore[arg-type]


def test_only_pods_that_have_trouble_with_it_are_looked_at_the_worst_first() -> None:
    wanted = Wanted("digits", "4")
    reports = [report(f"well-{n:03}") for n in range(990)]
    reports += [report(f"late-{n}", State.LOADING) for n in range(5)]
    reports.append(report("down", heartbeat_at=NOW - timedelta(hours=1)))
    reports += [report(f"broken-{n}", State.FAILED, "KeyError") for n in range(2)]
    known = cases(reports, wanted, PINNED, {}, NOW)
    assert [case.server for case in choose(known)] == ["broken-0", "broken-1", "down"]
    assert [case.error for case in choose(known)][:2] == ["KeyError", "KeyError"]


def test_a_trouble_with_another_version_is_none_with_this_one() -> None:
    broken = report("a", State.FAILED, "KeyError")
    assert choose(cases([broken], Wanted("digits", "3"), PINNED, {}, NOW)) == [Case("a", 1)]
    (found,) = cases([broken], Wanted("digits"), PINNED, {}, NOW)
    assert found.error == "KeyError"


def test_where_nobody_has_trouble_a_few_that_hold_it_are_shown() -> None:
    reports = [report("without", None), *(report(f"well-{n}") for n in range(9))]
    known = cases(reports, Wanted("digits", "4"), PINNED, {}, NOW)
    assert [case.server for case in choose(known)] == ["well-0", "well-1", "well-2"]


def test_what_was_undone_is_known_from_the_ledger(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        site.promote(site.slot("3"))
        slot = site.slot("4")
        site.twins["b"].faults.unloadable.add(slot.label)
        with pytest.raises(Exception, match="was not promoted"):
            site.promote(slot)
        undone = errors_of_undone(site.ledger.history("digits"), Wanted("digits", "4"))
        assert list(undone) == ["b"]
        assert errors_of_undone(site.ledger.history("digits"), Wanted("digits", "3")) == {}
        left = [report("a", State.LOADING), report("b", None)]  # no pin names it any more
        known = cases(left, Wanted("digits", "4"), {THREE}, undone, NOW)
        assert choose(known) == [Case("b", known[0].badness, undone["b"])]
        site.twins["b"].faults.unloadable.clear()
        site.promote(slot)
        assert errors_of_undone(site.ledger.history("digits"), Wanted("digits", "4")) == {}


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        ("[warning] agent.load failed='boom' label=4-ab12cd34 model=digits", True),
        ('{"model": "digits", "label": "4-ab12cd34"}', True),
        ("agent.load label=3-99fe0412 model=digits", False),
        ("agent.load label=4-ab12cd34 model=digits-v2", False),
        ("agent.load label=14-ab12cd34 model=digits", False),
        ("agent.accept generation=4", False),
    ],
)
def test_which_lines_of_an_agent_speak_of_a_version(text: str, speaks: bool) -> None:
    assert Wanted("digits", "4").is_named_in(text) is speaks


class Cluster(ThreadingHTTPServer):
    """Answers `pods/NAME/log` with what `logs` holds for (pod, container); 404 of others."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.asked: list[tuple[str, str]] = []

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig"
        named = {"name": "fake"}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        path.write_text(json.dumps(document))
        return path


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
        _, _, _, _, namespace, _, pod, verb = url.path.split("/")
        assert (namespace, verb) == ("models", "log")
        self.server.asked.append((pod, asked["container"]))
        told = self.server.logs.get((pod, asked["container"]))
        if told is None:
            status = {"kind": "Status", "code": 404, "message": f'pods "{pod}" not found'}
            self._answer(404, "application/json", json.dumps(status))
        else:
            text = "".join(f"{line}\n" for line in told[-int(asked["tailLines"]) :])
            self._answer(200, "text/plain", text)

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def pods(cluster: Cluster, tmp_path: Path) -> Iterator[KubernetesFleet]:
    fleet = Fleet(kind="kubernetes", kubeconfig=cluster.kubeconfig(tmp_path), namespace="models")
    made = KubernetesFleet(Settings(root=tmp_path, fleet=fleet))
    yield made
    made.client.close()


def test_the_end_of_a_containers_log(cluster: Cluster, pods: KubernetesFleet) -> None:
    cluster.logs["pod-a", "torchserve"] = [f"line {n}" for n in range(10)]
    assert pods.logs("pod-a", "torchserve", lines=2) == ["line 8", "line 9"]
    with pytest.raises(NotFound, match='pods "pod-b" not found') as missing:
        pods.logs("pod-b", "torchserve", lines=2)
    assert missing.value.next == "kubectl get pods -n models"


def test_a_cluster_that_is_away_is_told(cluster: Cluster, pods: KubernetesFleet) -> None:
    cluster.server_close()
    with pytest.raises(FleetUnreachable, match="the log of pod-a/agent cannot be read"):
        pods.logs("pod-a", "agent", lines=2)


class FolderOfPods(FolderFleet):
    """Pins and reports in a folder; each server's logs are those of the pod of that name."""

    pods: KubernetesFleet

    def logs(self, pod: str, container: str, *, lines: int) -> list[str]:
        return self.pods.logs(pod, container, lines=lines)


@pytest.fixture
def terminal(
    tmp_path: Path,
    pods: KubernetesFleet,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELSWITCH_FLEET__KIND", "kubernetes")
    fleet = FolderOfPods(tmp_path / ".modelswitch" / "fleet")
    fleet.pods = pods
    with Site(tmp_path, fleet=fleet) as site:
        yield Terminal(site, capsys)


def worker(label: str, text: str) -> str:
    return f"2026-05-01T12:00:00.000Z [INFO ] W-9000-digits_{label}-stdout MODEL_LOG - {text}"


def test_after_an_undone_promotion_logs_tells_of_the_pod_that_kept_it_back(
    terminal: Terminal, cluster: Cluster
) -> None:
    terminal.stand("1")
    terminal.register("2")
    label = terminal.site.slot("2").label
    terminal.site.twins["b"].faults.unloadable.add(label)
    refused = terminal("promote", "digits@2", "--reason", "better")
    assert refused.err.endswith("next: modelswitch logs digits@2\n")
    for pod in ("a", "b"):
        cluster.logs[pod, "torchserve"] = [
            "2026-05-01T12:00:00.000Z [INFO ] main org.pytorch.serve.ModelServer - up",
            worker("1-99fe0412", "hello from 1"),
            worker(label, f"no such layer on {pod}"),
        ]
        cluster.logs[pod, "agent"] = ["accept generation=2", f"load label={label} model=digits"]
    said = terminal("logs", "digits@2")
    lines = said.out.splitlines()
    assert said.exit == 0
    assert lines[0].startswith("b report ")
    assert lines[-2].endswith(f"{label} no such layer on b")
    assert lines[-1] == f"b agent load label={label} model=digits"
    assert said.err == "1 of 2 pods has trouble with digits@2\n"
    data = terminal("logs", "digits@2", "--json").data
    assert [entry["source"] for entry in data] == ["report", "torchserve", "agent"]
    assert (data[1]["at"], data[1]["worker"]) == ("2026-05-01T12:00:00Z", "9000")
    assert {pod for pod, _ in cluster.asked} == {"b"}
    other = terminal("logs", "digits@2", "--server", "a")
    assert "no such layer on a" in other.out
    assert "report" not in other.out


def test_a_log_that_cannot_be_read_hides_nothing_else(terminal: Terminal, cluster: Cluster) -> None:
    terminal.stand("1")
    cluster.logs["b", "torchserve"] = [worker(terminal.site.slot("1").label, "hello")]
    cluster.logs["b", "agent"] = []
    said = terminal("logs", "digits@1")
    assert said.exit == 0
    assert "a unread the log of a/torchserve is not there" in said.out
    assert "hello" in said.out
    gone = terminal("logs", "digits@1", "--server", "z")
    assert (gone.exit, "z unread" in gone.out) == (1, True)


def test_without_a_version_each_log_and_its_end(terminal: Terminal, cluster: Cluster) -> None:
    terminal.stand("1")
    terminal.site.silence("b")
    for pod in ("a", "b"):
        cluster.logs[pod, "torchserve"] = [f"line {n}" for n in range(9)]
        cluster.logs[pod, "agent"] = ["started"]
    data = terminal("logs", "--json").data
    assert [entry["log"] for entry in data] == [
        "b/torchserve",
        "b/agent",
        "a/torchserve",
        "a/agent",
    ]
    assert data[0]["lines"] == ["line 4", "line 5", "line 6", "line 7", "line 8"]
    one = terminal("logs", "--server", "a", "--lines", "1", "--json").data
    assert one == [
        {"log": "a/torchserve", "lines": ["line 8"]},
        {"log": "a/agent", "lines": ["started"]},
    ]
