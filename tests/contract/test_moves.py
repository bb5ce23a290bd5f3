"""The moves on twin servers: every rule of the protocol that a user can see."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelswitch.errors import (
    FleetUnreachable,
    NoLongerServes,
    NothingToGoBackTo,
    NotProven,
    PinsError,
    Quarantined,
    Refused,
)
from modelswitch.line import Kind
from modelswitch.moves import Intent
from modelswitch.moves.preview import Previews
from modelswitch.overview import model_row
from modelswitch.pins import Pins
from modelswitch.reports import State
from modelswitch.store import partial_name
from tests.site import Site, wait_for


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def test_staging_loads_everywhere_and_moves_no_traffic(site: Site) -> None:
    one = site.slot("1")
    moved = site.stage(one)
    assert [s.state for s in moved.servers] == ["proven", "proven"]
    assert site.all_answer() == {None}
    assert site.ledger.head("digits").head.line.candidates == (one,)


def test_promotion_answers_on_every_server_and_keeps_the_way_back_warm(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.stage(two)
    moved = site.promote(two)
    assert site.all_answer() == {"2"}
    assert (moved.before, moved.after) == (one, two)
    assert all(site.report(n).is_warm("digits", one.label) for n in site.twins)
    kinds = [(e.kind, e.action) for e in site.ledger.history("digits")]
    # Warm already, so the second promotion needed no prepared row.
    assert kinds[:2] == [(Kind.SETTLED, "promote"), (Kind.COMMITTED, "promote")]


def test_rollback_goes_back_and_quarantines_what_it_leaves(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.promote(two)
    site.rollback()
    assert site.all_answer() == {"1"}
    with pytest.raises(Quarantined, match="a test rolls back"):
        site.promote(two)
    site.moves.lift("digits", "2", Intent("mended"))
    site.promote(two)
    assert site.all_answer() == {"2"}


def test_rollback_twice_goes_back_twice_only_if_asked_twice(site: Site) -> None:
    slots = [site.slot(str(n)) for n in (1, 2, 3)]
    for slot in slots:
        site.promote(slot)
    site.rollback(leaves="3")
    with pytest.raises(NoLongerServes, match="digits@3 no longer serves, digits@2 does"):
        site.rollback(leaves="3")
    site.rollback(leaves="2")
    assert site.all_answer() == {"1"}
    with pytest.raises(NothingToGoBackTo):
        site.rollback(leaves="1")


def test_a_candidate_that_cannot_load_is_undone_with_its_reason(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.twins["b"].faults.unloadable.add(two.label)
    with pytest.raises(NotProven, match=r"server b: .*cannot be loaded.* digits@1 serves") as error:
        site.promote(two)
    assert error.value.exit == 4
    assert site.all_answer() == {"1"}
    assert site.ledger.head("digits").head.line.serving == (one,)
    wait_for(lambda: all(two.label not in _labels(site, n) for n in site.twins))


def test_a_golden_request_answered_wrong_keeps_a_version_out(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.twins["a"].faults.golden_wrong.add(two.label)
    with pytest.raises(NotProven, match="golden request wrong"):
        site.stage(two)
    assert site.all_answer() == {"1"}


def test_a_server_that_is_down_blocks_a_promotion_and_no_rollback(site: Site) -> None:
    one, two, three = (site.slot(n) for n in "123")
    site.promote(one)
    site.promote(two)
    site.silence("b")
    with pytest.raises(NotProven, match=r"server b is down.*Nothing was changed"):
        site.promote(three)
    with pytest.raises(Exception, match="Behind: server b") as error:
        site.rollback()
    assert error.value.exit == 4
    assert site.answers("a") == "1"
    assert site.answers("b") == "2"
    site.start("b")
    wait_for(lambda: site.answers("b") == "1")


def test_no_live_server_is_an_error(site: Site) -> None:
    one = site.slot("1")
    for name in site.twins:
        site.silence(name)
    with pytest.raises(FleetUnreachable):
        site.promote(one)


def test_the_second_call_changes_nothing(site: Site) -> None:
    one = site.slot("1")
    site.stage(one)
    assert not site.stage(one).changed
    site.promote(one)
    rows = len(site.ledger.history("digits"))
    assert not site.promote(one).changed
    assert len(site.ledger.history("digits")) == rows
    with pytest.raises(Refused, match="already in Production"):
        site.stage(one)


def test_a_second_candidate_replaces_the_first(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.stage(one)
    moved = site.stage(two)
    assert moved.replaced == (one,)
    wait_for(lambda: all(_labels(site, n) == {two.label} for n in site.twins))


def test_retire_unloads_a_candidate_and_refuses_what_serves(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.stage(two)
    site.moves.retire("digits", two, Intent("not wanted"))
    wait_for(lambda: all(_labels(site, n) == {one.label} for n in site.twins))
    with pytest.raises(Refused, match="cannot be retired"):
        site.moves.retire("digits", one, Intent("x"))
    site.moves.retire("digits", None, Intent("the whole model goes"))
    wait_for(lambda: all(not _labels(site, n) for n in site.twins))
    assert site.all_answer() == {None}


def test_a_server_that_restarts_heals_by_itself(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.promote(two)
    site.twins["a"].restart()
    wait_for(lambda: site.answers("a") == "2" and site.report("a").healthy)
    wait_for(lambda: site.report("a").is_warm("digits", one.label))


def test_an_agent_that_restarts_needs_no_fleet_to_heal_its_server(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    site.stop("a")
    site.fleet.pins_file.rename(site.folder / "away.json")
    site.twins["a"].restart()
    site.start("a")
    wait_for(lambda: site.answers("a") == "1")


def test_a_default_moved_by_hand_is_put_right(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.stage(two)
    site.on_loop(lambda: site.twins["a"].set_default("digits", two.label))
    wait_for(lambda: site.answers("a") == "1")


def test_a_foreign_version_is_removed_and_a_foreign_model_kept(site: Site) -> None:
    one, foreign, other = site.slot("1"), site.slot("9"), site.slot("1", "other")
    site.promote(one)
    twin = site.twins["a"]
    for model, slot in (("digits", foreign), ("other", other)):
        file = f"{model}-by-hand.mar"
        site.store.fetch(slot.digest, twin.model_store / file)
        site.on_loop(lambda m=model, s=slot, f=file: twin.register(m, s.label, f))
    wait_for(lambda: foreign.label not in _labels(site, "a"))
    wait_for(lambda: [f.model for f in site.report("a").foreign] == ["other"])


def test_pins_of_a_lower_generation_are_refused(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    old = site.fleet.pins_file.read_text()
    site.promote(two)
    site.fleet.pins_file.write_text(old)
    wait_for(lambda: "refused pins" in (site.report("a").error or ""))
    assert site.all_answer() == {"2"}
    site.moves.publish()
    wait_for(lambda: site.report("a").error is None)


def test_a_corrupt_archive_is_refused_before_the_server_sees_it(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    path = next(site.folder.rglob(f"archives/{two.digest[7:]}.mar"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(NotProven):
        site.stage(two)
    assert all(two.label not in _labels(site, n) for n in site.twins)


def test_what_a_killed_command_left_prepared_is_settled_where_it_came_from(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    _leave_open(site, two, commit=False)
    moved = site.moves.conclude("digits", Intent("resume"))
    assert moved is not None
    assert moved.after == one
    assert site.all_answer() == {"1"}


def test_what_a_killed_command_left_committed_is_settled_where_it_is_proven(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.stage(two)
    _leave_open(site, two, commit=True)
    moved = site.moves.conclude("digits", Intent("resume"))
    assert moved is not None
    assert moved.after.version == "2"
    assert site.all_answer() == {"2"}
    assert not site.ledger.head("digits").head.is_open


def _leave_open(site: Site, slot, *, commit: bool) -> None:
    with site.moves._at_work("digits") as work:
        target = work.head.line.promoted(slot)
        head = work.head.commit(target) if commit else work.head.prepare(target)
        work.append(head, "promote", Intent("killed"))


def _labels(site: Site, name: str) -> set[str]:
    served = site.on_loop(lambda: site.twins[name].describe("digits"))
    return set(served.versions) - {"placeholder"} if served else set()


def test_states_are_told_while_a_slot_loads(site: Site) -> None:
    one = site.slot("1")
    site.stage(one)
    assert site.report("a").slot("digits", one.label).state is State.PROVEN


def test_break_glass_needs_no_ledger_and_is_recorded_when_it_returns(site: Site) -> None:
    one, two, three = (site.slot(n) for n in "123")
    site.promote(one)
    site.promote(two)
    site.stage(three)
    rows = len(site.ledger.history("digits"))
    site.moves.break_glass("digits", Intent("the database is away", claimed="ann"), leaves="2")
    assert site.all_answer() == {"1"}
    assert len(site.ledger.history("digits")) == rows

    site.moves.publish()

    recorded = site.ledger.history("digits")[0]
    assert (recorded.action, recorded.reason, recorded.actor.claimed) == (
        "rollback",
        "the database is away",
        "ann",
    )
    assert recorded.head.line.default == one
    assert recorded.head.line.candidates == (three,)
    wait_for(lambda: {site.report(n).generation for n in site.twins} == {recorded.generation})
    assert site.all_answer() == {"1"}
    with pytest.raises(Quarantined, match="the database is away"):
        site.promote(two)


def test_two_break_glass_rollbacks_are_both_recorded(site: Site) -> None:
    for model in ("digits", "other"):
        for number in "12":
            site.promote(site.slot(number, model), model)
    site.moves.break_glass("digits", Intent("first"))
    site.moves.break_glass("other", Intent("second"))
    site.moves.publish()
    reasons = {m: site.ledger.history(m)[0].reason for m in ("digits", "other")}
    assert reasons == {"digits": "first", "other": "second"}
    site.moves.publish()
    assert site.fleet.published().pins.epoch == "main"


def test_a_break_glass_rollback_is_recorded_and_not_outranked(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.promote(two)
    site.moves.break_glass("digits", Intent("the database is away"))

    site.moves.outrank(Intent("as diff would have us do with strangers' pins"))

    assert site.ledger.history("digits")[0].reason == "the database is away"
    assert site.ledger.head("digits").head.default == one
    assert site.all_answer() == {"1"}


def test_pins_written_by_somebody_else_are_outranked_only_when_asked(site: Site) -> None:
    one = site.slot("1")
    site.promote(one)
    pins = site.fleet.published().pins
    foreign = pins.model_copy(update={"generation": pins.generation + 50})
    site.fleet.pins_file.write_text(foreign.text)
    with pytest.raises(PinsError, match="something else wrote them"):
        site.promote(site.slot("2"))
    site.moves.outrank(Intent("ours is right"))
    wait_for(lambda: site.report("a").generation > foreign.generation)
    site.promote(site.slot("2"))
    assert site.all_answer() == {"2"}


def test_a_rollback_names_the_archive_it_leaves_not_only_its_version(site: Site) -> None:
    one, two, other = site.slot("1"), site.slot("2"), site.slot("2", timeout_s=2)
    for slot in (one, two, other):
        site.promote(slot)
    site.rollback(leaves=other.label)
    with pytest.raises(NoLongerServes):
        site.rollback(leaves=other.label)
    assert site.ledger.head("digits").head.default.digest == two.digest


def test_a_command_that_loses_to_a_zombie_looks_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (site.slot(n) for n in "123")
    site.promote(one)
    site.promote(two)
    with site.moves._at_work("digits") as zombie:
        zombie.append(zombie.head.prepare(zombie.head.line.promoted(three)), "promote", Intent("z"))
    wait_for(lambda: all(site.report(n).is_warm("digits", three.label) for n in site.twins))
    append, awake = site.ledger.append, []

    def late(draft, **kwargs):
        if draft.action == "resume" and not awake:
            awake.append(zombie.append(zombie.head.commit(), "promote", Intent("z")))
        return append(draft, **kwargs)

    monkeypatch.setattr(site.ledger, "append", late)
    site.moves.retire("digits", one, Intent("not wanted"))
    head = site.ledger.head("digits").head
    assert not head.is_open
    assert head.default.digest == three.digest
    assert one.digest not in {s.digest for s in head.slots}


def test_the_model_store_keeps_only_what_is_pinned(site: Site) -> None:
    one, two = site.slot("1"), site.slot("2")
    site.promote(one)
    site.stage(two)
    store = site.twins["a"].model_store
    by_hand = store / "theirs.mar"
    by_hand.write_bytes(b"not ours")
    site.moves.retire("digits", two, Intent("not wanted"))
    wait_for(lambda: not (store / f"{two.digest[7:]}.mar").exists())
    site.stop("a")
    leftover = store / partial_name(two.digest)
    leftover.write_bytes(b"half")
    site.start("a")
    wait_for(lambda: not leftover.exists())
    assert by_hand.exists()
    assert (store / f"{one.digest[7:]}.mar").exists()


def test_outranking_goes_above_what_agents_have_taken(site: Site) -> None:
    """Even when what they took was deleted since."""
    site.promote(site.slot("1"))
    standing = site.fleet.published().pins
    raised = standing.model_copy(update={"generation": standing.generation + 200})
    site.fleet.pins_file.write_text(raised.text)
    wait_for(lambda: all(site.report(n).generation == raised.generation for n in site.twins))
    site.fleet.pins_file.unlink()
    site.moves.publish()
    wait_for(lambda: all("refused" in (site.report(n).error or "") for n in site.twins))

    pins = site.moves.outrank(Intent("somebody raised it by hand"))

    assert pins.generation > raised.generation
    wait_for(lambda: all(site.report(n).generation == pins.generation for n in site.twins))
    assert site.all_answer() == {"1"}


def test_a_model_is_healthy_by_the_servers_of_its_own_pool(tmp_path: Path) -> None:
    pools = {"gpu": "classifier", "cpu": "features"}
    with Site(tmp_path, servers=("gpu", "cpu"), pools=pools) as made:
        made.moves.promote("digits", made.slot("1"), Intent("why"), pool="classifier")
        now = datetime.now(UTC)
        row = model_row("digits", made.ledger.history("digits"), made.fleet.reports(), now)
        assert row.healthy
        made.silence("gpu")
        row = model_row("digits", made.ledger.history("digits"), made.fleet.reports(), now)
        assert row.healthy is False


def test_a_rollback_that_was_not_published_is_finished_by_the_same_again(site: Site) -> None:
    """Its command was killed between row and pins: the next one goes no further back."""
    one, two, three = site.slot("1"), site.slot("2"), site.slot("3")
    for slot in (one, two, three):
        site.promote(slot)
    publish, site.fleet.publish = site.fleet.publish, unpublished
    with pytest.raises(FleetUnreachable, match="could not be published yet"):
        site.rollback()
    site.fleet.publish = publish

    assert Previews(site.moves).rollback("digits").after == two.label
    moved = site.rollback()

    assert (moved.before, moved.after) == (three, two)
    assert site.all_answer() == {"2"}
    assert sum(e.action == "rollback" for e in site.ledger.history("digits")) == 1


def unpublished(*_: object, **__: object) -> Pins:
    raise FleetUnreachable("the fleet is away")
