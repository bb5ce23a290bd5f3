"""A fleet's folder that somebody else writes to: told, put right when asked, never believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelswitch.errors import NotProven, PinsError, PinsTooNew
from modelswitch.moves import Intent
from modelswitch.switch import ModelSwitch
from tests.crash.story import assert_one_story
from tests.site import Site, wait_for
from tests.terminal import MemoryRegistry


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        made.promote(made.slot("1"))
        yield made


def kinds_of_differences(site: Site) -> set[str]:
    registry = MemoryRegistry()
    registry.register("runs:/0/model", "digits")
    switch = ModelSwitch(
        site.settings,
        ledger=site.ledger,
        fleet=site.fleet,
        registry=registry,  # type: ignore[arg-type]
    )
    return {f"{d.kind}: {d.found}" for d in switch.diff() if d.kind != "marks"}


@pytest.mark.parametrize("rubbish", ["", "{", "[]", "\x00\xff", '{"models": 1}'])
def test_rubbish_for_pins_is_a_difference_that_the_next_publishing_ends(
    site: Site, rubbish: str
) -> None:
    site.fleet.pins_file.write_text(rubbish, encoding="latin-1")
    (found,) = (d for d in kinds_of_differences(site) if d.startswith("pins"))
    assert "pins.json" in found
    wait_for(lambda: "pins.json" in (site.report("a").error or ""))
    assert site.all_answer() == {"1"}
    site.moves.publish()
    wait_for(lambda: site.report("a").error is None)
    assert_one_story(site, "digits")


def test_pins_of_a_later_release_are_not_written_over(site: Site) -> None:
    newer = '{"schema": 99}'
    site.fleet.pins_file.write_text(newer)
    with pytest.raises(PinsTooNew, match="has schema 99"):
        site.promote(site.slot("2"))
    assert site.fleet.pins_file.read_text() == newer
    assert site.all_answer() == {"1"}


def test_pins_of_another_epoch_and_the_same_number_are_told_and_outranked_when_asked(
    site: Site,
) -> None:
    pins = site.fleet.published().pins
    foreign = pins.model_copy(update={"epoch": "somebody"})
    site.fleet.pins_file.write_text(foreign.text)
    with pytest.raises(PinsError, match="something else wrote them"):
        site.moves.publish()
    site.moves.outrank(Intent("ours is right"))
    assert_one_story(site, "digits")
    site.promote(site.slot("2"))
    assert site.all_answer() == {"2"}


def test_a_report_that_cannot_be_read_counts_as_a_server_that_is_down(site: Site) -> None:
    (site.fleet.reports_dir / "z.json").write_text("{}")
    assert any("z.json cannot be read" in d for d in kinds_of_differences(site))
    with pytest.raises(NotProven, match=r"server z.*z.json cannot be read") as refused:
        site.promote(site.slot("2"))
    assert "agent forget z" in (refused.value.next or "")
    assert site.fleet.forget("z")
    site.promote(site.slot("2"))


def test_a_report_copied_under_another_name_hides_no_server(site: Site) -> None:
    own = site.fleet.reports_dir / "a.json"
    said = json.loads(own.read_text())
    (site.fleet.reports_dir / "z.json").write_text(json.dumps(said))
    reports = {r.server: r for r in site.fleet.reports()}
    assert set(reports) == {"a", "b", "z"}
    assert reports["a"].error is None
    assert "says it is server a's" in (reports["z"].error or "")
