"""An agent killed at each of its boundaries; a fresh one heals the server without a command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelswitch.effects import watching
from modelswitch.line import Line
from modelswitch.servers.twin import TwinServer
from tests.crash.nursery import WHO
from tests.crash.story import assert_one_story, with_witnesses
from tests.site import Site, wait_for

MOST_BOUNDARIES = 40


class Killed(BaseException):
    """Nothing of the agent goes on, and nothing of it is cleaned up."""


class Killer:
    """Kills an agent at its n-th boundary: from then on none of its calls reaches the server."""

    def __init__(self, site: Site, name: str, boundary: int) -> None:
        self.site, self.name, self.boundary = site, name, boundary
        self.count = 0
        self.at: str | None = None

    def __call__(self, effect: str, side: str) -> None:
        if not effect.startswith("agent."):
            return
        self.count += 1
        if self.count == self.boundary:
            self.at = f"{effect} {side}"
        if self.count >= self.boundary:
            raise Killed

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Kill meanwhile; then start a fresh agent on the same server and state folder."""
        twin = self.site.twins[self.name]
        door = _Door(twin, self)
        self.site.stop(self.name)
        self.site.twins[self.name] = door  # type: ignore[assignment]
        with watching(boundary=self):
            self.site.start(self.name)
            yield
            self.site.stop(self.name)
        self.site.twins[self.name] = twin
        self.site.start(self.name)


class _Door:
    """A twin behind a door that shuts when its agent is killed."""

    def __init__(self, twin: TwinServer, killer: Killer) -> None:
        self._twin, self._killer = twin, killer

    def __getattr__(self, name: str) -> Any:
        if self._killer.at is not None and asyncio.iscoroutinefunction(getattr(self._twin, name)):
            raise Killed
        return getattr(self._twin, name)


def from_nothing(site: Site) -> None:
    """Row and pins as a promotion commits them, for agents that have seen nothing yet."""
    one = site.slot("1")
    with site.moves._at_work("digits") as work:
        work.append(work.head.prepare(Line((one,))), "promote", WHO)
        work.append(work.head.commit(), "promote", WHO)
        work.append(work.head.settle(done=True), "promote", WHO)


def to_another(site: Site) -> None:
    """Two is loaded, made the default, and what was a candidate goes."""
    two, three = site.slot("2"), site.slot("3")
    with site.moves._at_work("digits") as work:
        work.append(work.head.prepare(Line((two,), (three,))), "promote", WHO)
        work.append(work.head.commit(), "promote", WHO)
        work.append(work.head.settle(done=True), "promote", WHO)


def after_a_restart(site: Site) -> None:
    site.twins["a"].restart()


def one_serves(site: Site) -> None:
    from_nothing(site)
    wait_for(lambda: site.answers("a") == "1" and site.report("a").healthy)


@pytest.mark.parametrize(
    ("before", "meanwhile", "serves"),
    [
        (lambda _: None, from_nothing, "1"),
        (one_serves, to_another, "2"),
        (one_serves, after_a_restart, "1"),
    ],
    ids=["a first model is pinned", "another becomes the default", "its server restarts"],
)
def test_an_agent_killed_at_any_boundary_heals_its_server_when_it_is_back(
    tmp_path: Path,
    before: Callable[[Site], None],
    meanwhile: Callable[[Site], None],
    serves: str,
) -> None:
    seen = []
    for boundary in range(1, MOST_BOUNDARIES):
        made = Site(tmp_path / str(boundary), servers=("a",))
        wrong = with_witnesses(made)
        with made as site:
            before(site)
            killer = Killer(site, "a", boundary)
            with killer.armed():
                meanwhile(site)
                wait_for(lambda: killer.at or _is_told(site, serves))  # noqa: B023
            wait_for(lambda: _is_told(site, serves))
            assert_one_story(site, "digits")
        assert wrong == []
        if killer.at is None:
            break
        seen.append(killer.at)
    else:
        pytest.fail("the agent never came to its end")
    assert {"agent.load before", "agent.register after", "agent.prove before"} <= set(seen)


def _is_told(site: Site, version: str) -> bool:
    """Whether everything pinned is proven, and this version the default."""
    report, published = site.report("a"), site.fleet.published()
    assert published is not None
    pinned = published.pins.models.get("digits")
    return (
        pinned is not None
        and report.boot_id == site.agents["a"].boot_id
        and report.generation == published.pins.generation
        and report.healthy
        and (report.models["digits"].default or "").startswith(f"{version}-")
        and all(report.is_warm("digits", label) for label in pinned.slots)
    )
