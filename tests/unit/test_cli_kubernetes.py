"""A folder whose servers are pods, and none of them there: what is refused, what is advised.

The cluster is a small HTTP server that answers as the API server of an empty namespace does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from modelswitch.fleet.kubernetes import KubernetesFleet
from modelswitch.ledger import Draft
from modelswitch.line import Kind, Line
from modelswitch.settings import load
from tests.site import Site
from tests.terminal import Terminal

SCALE = "kubectl scale deployment NAME -n models --replicas=1"


class Cluster(ThreadingHTTPServer):
    """Keeps the ConfigMaps that are applied; has no Deployment and no pod."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.config_maps: dict[str, dict[str, Any]] = {}

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig"
        named = {"name": "empty"}
        url = f"http://127.0.0.1:{self.server_port}"
        document = {
            "clusters": [{**named, "cluster": {"server": url}}],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": {"cluster": "empty", "user": "empty"}}],
            "current-context": "empty",
        }
        path.write_text(json.dumps(document))
        return path


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        name = urlsplit(self.path).path.partition("/configmaps/")[2]
        if not name:
            self._answer(200, {"metadata": {}, "items": []})
        elif name in self.server.config_maps:
            self._answer(200, self.server.config_maps[name])
        else:
            self._answer(404, {"kind": "Status", "code": 404, "message": f"{name}: not found"})

    def do_PATCH(self) -> None:
        name = urlsplit(self.path).path.rpartition("/")[2]
        length = int(self.headers["Content-Length"])
        self.server.config_maps[name] = yaml.safe_load(self.rfile.read(length))
        self._answer(200, self.server.config_maps[name])

    def _answer(self, code: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
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
def terminal(
    tmp_path: Path,
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Terminal]:
    """In a folder of its own, so that what a verb leaves there is seen."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "modelswitch.toml").write_text(
        '[fleet]\nkind = "kubernetes"\nnamespace = "models"\n'
        f'kubeconfig = "{cluster.kubeconfig(tmp_path)}"\npins_file = "pins.json"\n'
    )
    monkeypatch.chdir(folder)
    fleet = KubernetesFleet(load())
    yield Terminal(Site(tmp_path, servers=(), fleet=fleet), capsys)  # type: ignore[arg-type]
    fleet.client.close()


@pytest.mark.parametrize("line", [("up",), ("up", "--dry-run"), ("up", "--foreground")])
def test_up_is_refused_at_once_and_leaves_nothing(
    terminal: Terminal, line: tuple[str, ...]
) -> None:
    said = terminal(*line)
    assert (said.exit, said.out) == (2, "")
    assert said.err.startswith(
        "error: this folder's servers are pods (fleet.kind = kubernetes): up starts a stack on "
        "this machine\nnext: run it in another folder; pods: kubectl scale"
    )
    assert [path.name for path in Path.cwd().iterdir()] == ["modelswitch.toml"]


def test_a_promotion_without_pods_speaks_of_pods(terminal: Terminal) -> None:
    terminal.register("1")
    said = terminal("promote", "digits@1", "--reason", "the first")
    assert said.exit == 1
    assert "no live server in the pool default" in said.err
    assert said.err.splitlines()[-1] == (
        f"next: modelswitch status; kubectl get pods -n models; if there is none: {SCALE}"
    )
    assert terminal.site.ledger.history("digits") == []


def serve(terminal: Terminal) -> None:
    """A row that says digits@1 serves, published nowhere."""
    terminal.register("1")
    line = Line((terminal.site.slot("1"),))
    draft = Draft(model="digits", parent=0, kind=Kind.SETTLED, action="promote", line=line)
    terminal.site.ledger.append(draft)


def test_a_comparison_without_pods_speaks_of_pods(terminal: Terminal) -> None:
    serve(terminal)
    said = terminal("diff", "--json")
    fixes = {d["found"]: d["fix"] for d in said.document["data"] if d["where"] == "fleet"}
    assert said.exit == 3
    assert fixes == {
        "nothing published": "modelswitch resume",
        "none has reported": f"kubectl get pods -n models; if there is none: {SCALE}",
    }


def test_what_was_retired_before_the_cluster_went_is_no_difference(
    terminal: Terminal, cluster: Cluster
) -> None:
    """As docs/kubernetes.md says of taking a deployment away."""
    serve(terminal)
    assert terminal("retire", "digits", "--reason", "this deployment ends").exit == 0
    assert cluster.config_maps
    cluster.config_maps.clear()
    said = terminal("diff", "--json")
    assert (said.exit, said.document["data"]) == (0, [])


def test_what_changes_the_working_tree_is_to_be_committed_whatever_the_verb(
    terminal: Terminal,
) -> None:
    serve(terminal)
    said = terminal("resume")
    assert said.exit == 0
    assert "commit this: " in said.err
    assert "pins.json has changed" in said.err
    assert "commit this" not in terminal("resume").err
