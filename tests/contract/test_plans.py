"""Plans that wait for a pull request, and models that belong to a pool, on twin servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modelswitch.errors import (
    FleetUnreachable,
    NotProven,
    PinsError,
    Quarantined,
    Refused,
    UsageError,
    WaitsForApproval,
)
from modelswitch.fleet import FolderFleet
from modelswitch.line import Slot
from modelswitch.moves import Intent, Moved
from modelswitch.moves.preview import Previews
from modelswitch.pins import Pins, parse
from tests.site import Site, wait_for

WHY = Intent("a test plans")


class ReviewedFolder(FolderFleet):
    """A folder whose plans wait in a file, as those of a working tree do."""

    @property
    def file(self) -> Path:
        return self.path.parent / "reviewed.json"

    def write(self, pins: Pins) -> Path:
        self.file.write_text(pins.text, encoding="utf-8")
        return self.file

    def merge(self) -> Pins:
        """What a pipeline does with a pull request: apply its text."""
        return self.publish(parse(self.file.read_text(encoding="utf-8")))


@pytest.fixture
def fleet(tmp_path: Path) -> ReviewedFolder:
    return ReviewedFolder(tmp_path / ".modelswitch" / "fleet")


@pytest.fixture
def site(tmp_path: Path, fleet: ReviewedFolder) -> Iterator[Site]:
    with Site(tmp_path, fleet=fleet) as made:
        yield made


@pytest.fixture
def two(site: Site) -> Slot:
    """Version 1 serves, version 2 is in Staging."""
    site.promote(site.slot("1"))
    two = site.slot("2")
    site.stage(two)
    return two


def plan(site: Site, slot: Slot, model: str = "digits") -> Moved:
    return site.moves.promote(model, slot, WHY, plan=True)


def test_a_plan_writes_pins_and_moves_nothing(site: Site, fleet: ReviewedFolder, two: Slot) -> None:
    before = fleet.published()
    planned = plan(site, two)

    assert planned.plan == str(fleet.file)
    written = parse(fleet.file.read_text())
    assert written.generation == planned.event
    assert written.models["digits"].default == two.label
    assert fleet.published() == before
    assert site.all_answer() == {"1"}
    with pytest.raises(WaitsForApproval, match="digits@2 waits for a pull request") as waits:
        site.moves.conclude("digits", WHY)
    assert waits.value.exit == 5


def test_an_applied_plan_is_proven_and_settled_by_resume(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    planned = plan(site, two)
    merged = fleet.merge()
    wait_for(lambda: site.all_answer() == {"2"})

    concluded = site.moves.conclude("digits", WHY)

    assert concluded is not None
    assert concluded.after == two
    rows = site.ledger.history("digits")
    assert rows[1].evidence["merged"] == planned.event
    assert rows[1].generation == merged.generation
    assert not rows[0].head.is_open
    assert site.all_answer() == {"2"}


def test_an_applied_plan_that_is_not_proven_is_undone(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    site.silence("b")
    fleet.merge()

    with pytest.raises(NotProven, match="digits@2 was not promoted: server b"):
        site.moves.conclude("digits", WHY)

    assert site.answers("a") == "1" or wait_for(lambda: site.answers("a") == "1")
    assert site.ledger.head("digits").head.line.default.version == "1"


def test_a_candidate_can_be_planned_too(site: Site, fleet: ReviewedFolder) -> None:
    site.promote(site.slot("1"))
    two = site.slot("2")
    site.moves.stage("digits", two, WHY, plan=True)
    assert not any(site.report(n).is_warm("digits", two.label) for n in site.twins)

    fleet.merge()
    concluded = site.moves.conclude("digits", WHY)

    assert concluded is not None
    assert site.ledger.head("digits").head.line.candidates == (two,)
    assert all(site.report(n).is_warm("digits", two.label) for n in site.twins)


def test_a_plan_to_production_needs_a_warm_version(site: Site) -> None:
    site.promote(site.slot("1"))
    with pytest.raises(Refused, match="not warm on every server") as cold:
        plan(site, site.slot("2"))
    assert "--to staging" in str(cold.value.next)


def test_what_is_being_unloaded_is_not_warm_for_a_plan(site: Site, two: Slot) -> None:
    for name in site.twins:
        site.stop(name)  # reports say warm still
    site.moves.retire("digits", two, WHY)
    with pytest.raises(Refused, match="not warm on every server"):
        plan(site, two)


def test_the_same_plan_again_writes_the_same_file(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    first = plan(site, two)
    text = fleet.file.read_text()
    fleet.file.unlink()
    again = plan(site, two)
    assert (again.event, again.changed) == (first.event, False)
    assert fleet.file.read_text() == text


def test_one_plan_at_a_time(site: Site, two: Slot) -> None:
    other = site.slot("1", "faces")
    site.moves.stage("faces", other, WHY)
    plan(site, two)
    with pytest.raises(WaitsForApproval):
        plan(site, other, "faces")
    with pytest.raises(WaitsForApproval):
        site.promote(two)


def test_a_plan_that_is_given_up_leaves_the_file_as_it_is_published(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    site.moves.conclude("digits", WHY, give_up=True)
    published = fleet.published()
    assert published is not None
    assert fleet.file.read_text() == published.pins.text
    assert not site.ledger.head("digits").head.is_open
    site.promote(two)
    assert site.all_answer() == {"2"}


def test_a_rollback_overtakes_a_plan_and_its_late_merge_is_refused(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    site.promote(two)
    three = site.slot("3")
    site.stage(three)
    plan(site, three)

    site.rollback()
    assert site.all_answer() == {"1"}

    fleet.pins_file.write_text(fleet.file.read_text())  # a stale checkout, applied
    wait_for(lambda: all("refused" in (site.report(n).error or "") for n in site.twins))
    assert site.all_answer() == {"1"}
    site.moves.publish()
    assert fleet.published().pins.models["digits"].default.startswith("1-")


def test_a_rollback_after_the_merge_leaves_what_the_pull_request_brought(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    fleet.merge()
    wait_for(lambda: site.all_answer() == {"2"})

    assert Previews(site.moves).rollback("digits").before == two.label
    moved = site.rollback()

    assert (moved.before.version, moved.after.version) == ("2", "1")
    assert site.all_answer() == {"1"}


def test_a_late_merge_of_a_plan_that_was_given_up_brings_nothing(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    asked = parse(fleet.file.read_text())
    site.moves.conclude("digits", WHY, give_up=True)

    stands = fleet.publish(asked)

    assert stands.generation > asked.generation
    assert site.moves.publish() == stands
    assert site.all_answer() == {"1"}


def test_a_rollback_of_another_model_keeps_what_a_pull_request_has_brought(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    site.promote(site.slot("1", "faces"), "faces")
    site.promote(site.slot("2", "faces"), "faces")
    planned = plan(site, two)
    fleet.merge()
    wait_for(lambda: site.all_answer() == {"2"})

    site.rollback("faces")

    assert site.all_answer("faces") == {"1"}
    assert site.all_answer() == {"2"}
    assert site.ledger.head("digits").evidence["merged"] == planned.event
    concluded = site.moves.conclude("digits", WHY)
    assert concluded is not None
    assert concluded.after == two


def test_a_plan_that_older_pins_were_put_over_ends_at_its_line(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    before = fleet.published().pins.text
    plan(site, two)
    fleet.merge()
    wait_for(lambda: site.all_answer() == {"2"})
    fleet.pins_file.write_text(before)  # its merge is reverted, and that is applied
    wait_for(lambda: all("refused" in (site.report(n).error or "") for n in site.twins))

    concluded = site.moves.conclude("digits", WHY)

    assert concluded is not None
    assert "older pins were put over it" in site.ledger.history("digits")[0].reason
    wait_for(lambda: site.all_answer() == {"1"})


def test_a_rollback_needs_no_readable_pins_to_pass_a_plan(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    site.promote(two)
    three = site.slot("3")
    site.stage(three)
    plan(site, three)
    fleet.pins_file.write_text("rubbish")
    site.rollback()
    assert site.all_answer() == {"1"}


def test_outranking_keeps_what_a_pull_request_has_brought(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    merged = fleet.merge()
    pins = site.moves.outrank(WHY)
    assert pins.generation > merged.generation
    assert pins.models == merged.models
    concluded = site.moves.conclude("digits", WHY)
    assert concluded is not None
    assert concluded.after == two


def test_break_glass_leaves_what_a_pull_request_has_brought(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    fleet.merge()
    wait_for(lambda: site.all_answer() == {"2"})
    site.moves.break_glass("digits", Intent("the database is away"), leaves="2")

    site.moves.publish()

    recorded = site.ledger.head("digits")
    assert (recorded.action, recorded.leaves.version) == ("rollback", "2")
    assert site.all_answer() == {"1"}
    with pytest.raises(Quarantined):
        site.promote(two)


def test_break_glass_to_what_a_plan_would_bring_is_not_that_plan(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    site.promote(two)
    plan(site, site.slot("1"))
    site.moves.break_glass("digits", Intent("the database is away"))

    site.moves.publish()

    recorded = site.ledger.head("digits")
    assert (recorded.action, recorded.leaves.version) == ("rollback", "2")
    assert site.all_answer() == {"1"}


def test_break_glass_of_another_model_keeps_what_a_pull_request_has_brought(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    site.promote(site.slot("1", "faces"), "faces")
    site.promote(site.slot("2", "faces"), "faces")
    plan(site, two)
    fleet.merge()
    site.moves.break_glass("faces", Intent("the database is away"))

    concluded = site.moves.conclude("digits", WHY)

    assert concluded is not None
    assert concluded.after == two
    assert site.ledger.head("faces").action == "rollback"
    site.rollback()  # the version that was replaced is in no quarantine
    assert site.all_answer() == {"1"}


def test_the_first_candidate_of_a_model_can_be_planned(site: Site, fleet: ReviewedFolder) -> None:
    one = site.slot("1")
    planned = site.moves.stage("digits", one, WHY, plan=True)
    assert site.moves.publish().models == {}
    with pytest.raises(WaitsForApproval):
        site.moves.conclude("digits", WHY)

    assert fleet.merge().generation == planned.event
    site.moves.conclude("digits", WHY)

    assert site.ledger.head("digits").head.line.candidates == (one,)


def test_an_overtaken_plan_is_planned_anew(site: Site, fleet: ReviewedFolder, two: Slot) -> None:
    first = plan(site, two)
    site.promote(site.slot("1", "faces"), "faces")

    again = plan(site, two)

    assert again.changed
    assert again.event > first.event
    fleet.merge()
    concluded = site.moves.conclude("digits", WHY)
    assert concluded is not None
    assert concluded.after == two


def test_a_move_of_another_model_overtakes_a_plan(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    site.promote(site.slot("1", "faces"), "faces")
    assert site.all_answer() == {"1"}
    concluded = site.moves.conclude("digits", WHY)
    assert concluded is not None
    assert concluded.after.version == "1"
    assert "overtaken" in site.ledger.history("digits")[0].reason


def test_pins_that_were_changed_in_review_are_not_the_plan(
    site: Site, fleet: ReviewedFolder, two: Slot
) -> None:
    plan(site, two)
    written = parse(fleet.file.read_text())
    digits = written.models["digits"]
    other = digits.model_copy(update={"back": ()})
    fleet.publish(written.model_copy(update={"models": {"digits": other}}))
    with pytest.raises(PinsError, match="something else wrote them"):
        site.moves.conclude("digits", WHY)


def test_a_folder_has_no_pull_requests(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        one = site.slot("1")
        with pytest.raises(UsageError, match="without one"):
            site.moves.stage("digits", one, WHY, plan=True)


# -- pools ---------------------------------------------------------------------------------------


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[Site]:
    pools = {"gpu1": "classifier", "gpu2": "classifier", "cpu1": "features"}
    with Site(tmp_path, servers=("gpu1", "gpu2", "cpu1"), pools=pools) as made:
        yield made


def test_a_model_lives_in_its_pool_alone(pooled: Site) -> None:
    one = pooled.slot("1")
    moved = pooled.moves.promote("digits", one, WHY, pool="classifier")
    assert [s.name for s in moved.servers] == ["gpu1", "gpu2"]
    assert pooled.answers("gpu1") == "1"
    assert "digits" not in pooled.report("cpu1").models
    two = pooled.slot("2")
    pooled.promote(two)  # the pool stays, unnamed
    pooled.rollback()
    assert pooled.ledger.head("digits").head.pool == "classifier"


def test_a_model_does_not_change_its_pool_while_it_is_loaded(pooled: Site) -> None:
    pooled.moves.promote("digits", pooled.slot("1"), WHY, pool="classifier")
    with pytest.raises(Refused, match="belongs to the pool classifier"):
        pooled.moves.promote("digits", pooled.slot("2"), WHY, pool="features")
    pooled.moves.retire("digits", None, WHY)
    pooled.moves.promote("digits", pooled.slot("2"), WHY, pool="features")
    wait_for(lambda: pooled.answers("cpu1") == "2")


def test_a_candidate_is_kept_to_one_pool_until_it_serves(pooled: Site) -> None:
    one, two = pooled.slot("1"), pooled.slot("2")
    pooled.moves.promote("digits", one, WHY, pool="classifier")

    staged = pooled.moves.stage("digits", replace(two, pool="features"), WHY)

    assert [s.name for s in staged.servers] == ["cpu1"]
    assert pooled.report("cpu1").is_warm("digits", two.label)
    assert not pooled.report("gpu1").is_warm("digits", two.label)
    assert pooled.answers("cpu1") is None  # a candidate takes no traffic there either
    moved = pooled.promote(two)
    assert [s.name for s in moved.servers] == ["gpu1", "gpu2"]
    assert {pooled.answers("gpu1"), pooled.answers("gpu2")} == {"2"}
    wait_for(lambda: "digits" not in pooled.report("cpu1").models)


def test_a_pool_without_servers_proves_nothing(pooled: Site) -> None:
    with pytest.raises(FleetUnreachable, match="no live server in the pool nowhere"):
        pooled.moves.promote("digits", pooled.slot("1"), WHY, pool="nowhere")


def test_a_rollback_that_could_not_be_published_says_that_its_row_stands(
    site: Site, fleet: ReviewedFolder, two: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed again it would go one further back: that is not what it may advise."""
    site.moves.promote("digits", two, WHY)

    def away(*_: object, **__: object) -> Pins:
        raise FleetUnreachable("nobody answers", next="the same command again")

    with monkeypatch.context() as gone:
        gone.setattr(fleet, "publish", away)
        with pytest.raises(FleetUnreachable, match=r"digits@1 \(row \d+\).*nobody answers") as said:
            site.moves.rollback("digits", WHY)
    assert "modelswitch resume" in str(said.value.next)
    stands = site.moves.publish()
    assert stands.models["digits"].default == site.slot("1").label
