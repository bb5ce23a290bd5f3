"""One control plane a session; for each test that asks, a namespace of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.binaries import Binaries, BuildFailed, Unavailable, find_or_build
from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import K8S

HERE = Path(__file__).parent
NODES = 3
FOUND = pytest.StashKey[Binaries | Unavailable | BuildFailed]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build before the first test, whose time limit a first build would not keep."""
    asked = any("binaries" in getattr(item, "fixturenames", ()) for item in session.items)
    if not asked or session.config.option.collectonly:
        return
    terminal = session.config.pluginmanager.getplugin("terminalreporter")
    try:
        session.config.stash[FOUND] = find_or_build(terminal.write_line)
    except (Unavailable, BuildFailed) as error:
        session.config.stash[FOUND] = error


@pytest.fixture(scope="session")
def binaries(pytestconfig: pytest.Config) -> Binaries:
    found = pytestconfig.stash[FOUND]
    if isinstance(found, Unavailable):
        pytest.skip(str(found))
    if isinstance(found, BuildFailed):
        raise found
    return found


@pytest.fixture(scope="session")
def plane(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane with three nodes that kwok keeps, and the agents' admission policy."""
    with ControlPlane(binaries, tmp_path_factory.mktemp("control-plane")) as running:
        running.add_nodes(NODES)
        running.kubectl("apply", "-k", str(K8S / "admission"))
        yield running


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    """Enforces Pod Security `restricted`, and warns by it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    modes = ("enforce", "warn", "audit")
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in modes}
    metadata = {"name": name, "labels": labels}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")
