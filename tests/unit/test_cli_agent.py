"""Which agent the settings make: of a folder, or in a pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelswitch.cli.agent import make_agent
from modelswitch.errors import SettingsError
from modelswitch.fleet import FolderFleet
from modelswitch.fleet.pod import PodFleet
from modelswitch.settings import Fleet, Server, Settings
from tests.unit.test_fleet_pod import KUBECONFIG

URLS = {"inference_url": "http://127.0.0.1:1", "management_url": "http://127.0.0.1:2"}


def settings(folder: Path, *, fleet: Fleet | None = None, **server: Any) -> Settings:
    return Settings(root=folder, fleet=fleet or Fleet(), server=Server(**URLS, **server))


def test_the_local_stacks_agent_follows_a_folder_and_ends_at_once(tmp_path: Path) -> None:
    agent = make_agent(settings(tmp_path, name="b", pool="features"))

    assert isinstance(agent.fleet, FolderFleet)
    assert (agent.pool, agent.drain_s) == ("features", 0.0)


def test_an_agent_in_a_pod_follows_a_config_map_and_drains(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    fleet = Fleet(kind="kubernetes", kubeconfig=tmp_path / "kubeconfig")

    agent = make_agent(settings(tmp_path, fleet=fleet, name="torchserve-6f9c-x2", health_port=8083))

    assert isinstance(agent.fleet, PodFleet)
    assert agent.drain_s == settings(tmp_path).timeouts.unload_s
    assert "modelswitch-pins-local was not read" in str(agent.fleet.unread)


def test_outside_of_a_cluster_and_without_a_kubeconfig_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="no cluster to talk to"):
        make_agent(settings(tmp_path, fleet=Fleet(kind="kubernetes")))
