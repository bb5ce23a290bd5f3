"""Whom a pod believes, mount or API, and how it spares the API server: without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelswitch.errors import FleetUnreachable, PinsError
from modelswitch.fleet import pod_api
from modelswitch.fleet.pod import PodFleet
from modelswitch.fleet.pod_api import Pause, PodApi
from modelswitch.fleet.protocol import Published
from modelswitch.pins import Pins
from modelswitch.settings import Fleet

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {tokenFile: /nonexistent}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: ours}}]
current-context: x
"""


def pins(generation: int) -> Pins:
    return Pins(schema=1, deployment="test", generation=generation)


@pytest.fixture
def api(tmp_path: Path) -> PodApi:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    return PodApi(Fleet(kind="kubernetes", kubeconfig=kubeconfig))


@pytest.fixture
def fleet(api: PodApi, tmp_path: Path) -> PodFleet:
    (tmp_path / "mount").mkdir()
    return PodFleet(api, config_map="pins", mount=tmp_path / "mount", pod="p")


class Said:
    """What mount and API say, as they would have set it."""

    def __init__(self, fleet: PodFleet, folder: Path) -> None:
        self.fleet, self.file = fleet, folder / "mount" / "pins.json"

    def mount(self, text: str) -> None:
        self.file.write_text(text)
        self.fleet._mount.look()

    def api(self, word: Published | PinsError | FleetUnreachable, *, live: bool = True) -> None:
        self.fleet._watch.word = word
        self.fleet._watch.is_live = live

    @property
    def generation(self) -> int | None:
        found = self.fleet.published()
        return found.pins.generation if found else None


@pytest.fixture
def said(fleet: PodFleet, tmp_path: Path) -> Said:
    return Said(fleet, tmp_path)


def test_before_the_api_was_read_the_mount_is_all_there_is(said: Said) -> None:
    assert said.generation is None
    said.mount(pins(3).text)
    assert said.generation == 3
    assert "was not read since this start: no answer yet" in str(said.fleet.unread)


@pytest.mark.parametrize("mounted", [1, 2, 3])
def test_while_it_is_watched_the_api_has_the_only_word(said: Said, mounted: int) -> None:
    said.mount(pins(mounted).text)
    said.api(Published(pins(2)))
    assert said.generation == 2
    assert said.fleet.unread is None


@pytest.mark.parametrize(("mounted", "counts"), [(1, 2), (2, 2), (3, 3)])
def test_while_the_api_is_away_the_later_of_both_counts(
    said: Said, mounted: int, counts: int
) -> None:
    said.mount(pins(mounted).text)
    said.api(Published(pins(2)), live=False)
    assert said.generation == counts


def test_a_config_map_that_is_gone_is_told_though_it_is_still_mounted(said: Said) -> None:
    said.mount(pins(3).text)
    said.api(FleetUnreachable("the ConfigMap pins is not there"))
    with pytest.raises(FleetUnreachable, match="is not there"):
        said.fleet.published()


@pytest.mark.parametrize("text", ["{", '{"schema": 2}', "[]"])
def test_rubbish_in_the_mount_is_told(said: Said, text: str) -> None:
    said.mount(text)
    with pytest.raises(PinsError, match="the mounted"):
        said.fleet.published()


def test_a_mount_that_is_no_text_is_told(said: Said) -> None:
    said.file.write_bytes(b"\xff\xfe")
    said.fleet._mount.look()
    with pytest.raises(PinsError, match="is not text"):
        said.fleet.published()


def test_a_mount_is_read_again_only_when_it_was_swapped(said: Said, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    for n in (1, 2):
        (mount / f"..{n}").mkdir()
        (mount / f"..{n}" / "pins.json").write_text(pins(n).text)
    (mount / "..data").symlink_to("..1")
    said.file.symlink_to("..data/pins.json")
    assert said.fleet._mount.look()
    assert not said.fleet._mount.look()
    (mount / "..tmp").symlink_to("..2")
    (mount / "..tmp").rename(mount / "..data")
    assert said.fleet._mount.look()
    assert said.generation == 2


def test_the_namespace_is_the_kubeconfigs_unless_it_is_named(api: PodApi, tmp_path: Path) -> None:
    assert api.namespace == "ours"
    named = Fleet(kind="kubernetes", kubeconfig=tmp_path / "kubeconfig", namespace="theirs")
    assert PodApi(named).namespace == "theirs"


def test_pauses_grow_to_half_a_minute_and_are_never_the_same() -> None:
    pauses = [Pause() for _ in range(50)]
    grown = [[pause.next_s() for _ in range(12)] for pause in pauses]
    assert all(0.25 <= each[0] <= 0.5 for each in grown)
    assert all(15.0 <= each[-1] <= 30.0 for each in grown)
    assert len({each[-1] for each in grown}) == len(grown)
    pauses[0].reset()
    assert pauses[0].next_s() <= 0.5


async def test_more_requests_than_a_few_at_once_have_to_wait(
    api: PodApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(pod_api.asyncio, "sleep", sleep)
    for _ in range(8):
        await api._may()
    assert [round(seconds) for seconds in waited] == [1, 2, 3]


async def test_a_token_that_is_not_there_is_told(api: PodApi) -> None:
    with pytest.raises(FleetUnreachable, match="/nonexistent"):
        await api.get("configmaps")
