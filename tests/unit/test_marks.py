"""Marks, the pure half: what should stand in MLflow, and what must change for it to."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from modelswitch.line import Line, Slot
from modelswitch.marks import MarkChange, Marks, Place, desired, diff

ALIAS = Place("alias", key="production")


def slot(version: int, fill: str = "a") -> Slot:
    return Slot(str(version), "sha256:" + fill * 64)


def stage(version: int) -> Place:
    return Place("stage", str(version))


def tag(version: int, key: str) -> Place:
    return Place("tag", str(version), f"modelswitch.{key}")


def wanted(line: Line, served: set[str], **options: object) -> Marks:
    quarantined = options.get("quarantined", {})
    return desired(
        "digits",
        line,
        served,
        quarantined,  # type: ignore[arg-type]
        str(options.get("deployment", "local")),
        primary=bool(options.get("primary", True)),
    )


def found(versions: str, values: Mapping[Place, str]) -> Marks:
    """As MLflow shows it: each version has a stage."""
    stages = {stage(int(v)): "None" for v in versions.split()}
    return Marks("digits", versions=set(versions.split()), values=stages | dict(values))


def after(marks: Marks, changes: tuple[MarkChange, ...]) -> Marks:
    """What MLflow shows when the changes have been written."""
    values = dict(marks.values)
    for change in changes:
        if change.is_writable and change.wanted is None:
            values.pop(change.place, None)
        elif change.is_writable:
            values[change.place] = str(change.wanted)
    return Marks(marks.model, exists=marks.exists, versions=marks.versions, values=values)


LINE = Line((slot(3), slot(2)), (slot(4),))


def test_each_place_in_the_line_has_its_stage_and_tag() -> None:
    marks = wanted(LINE, {"1", "2", "3"})

    assert marks.values == {
        ALIAS: "3",
        stage(1): "Archived",
        stage(2): "Archived",
        stage(3): "Production",
        stage(4): "Staging",
        tag(1, "at.local"): "archived",
        tag(2, "at.local"): "archived",
        tag(3, "at.local"): "production",
        tag(4, "at.local"): "staging",
        tag(2, "digest"): slot(2).digest,
        tag(3, "digest"): slot(3).digest,
        tag(4, "digest"): slot(4).digest,
    }


def test_another_deployment_tags_only_where_it_serves() -> None:
    marks = wanted(LINE, {"3"}, deployment="edge", primary=False, quarantined={"1": "slow"})

    assert set(marks.values) == {tag(v, "at.edge") for v in (2, 3, 4)}


def test_of_two_archives_of_a_version_the_digest_is_of_the_one_that_serves() -> None:
    line = Line((slot(3, "a"),), (slot(3, "b"),))

    assert wanted(line, {"3"}).values[tag(3, "digest")] == slot(3, "a").digest


def test_a_quarantine_tells_its_reason_and_is_lifted_with_its_tag() -> None:
    line = Line((slot(1),))
    marks = wanted(line, {"1"}, quarantined={"2": "worse by 2 %", "3": ""})
    shown = after(found("1 2 3", {}), diff(marks, found("1 2 3", {})))

    assert shown.values[tag(2, "quarantined")] == "worse by 2 %"
    assert shown.values[tag(3, "quarantined")] == "true"

    lifted = after(shown, diff(wanted(line, {"1"}), shown))

    assert tag(2, "quarantined") not in lifted.values


def test_the_alias_moves_first_and_production_before_the_rest() -> None:
    before = wanted(Line((slot(2),)), {"2"})
    shown = after(found("2 3", {}), diff(before, found("2 3", {})))

    changes = diff(wanted(Line((slot(3), slot(2))), {"2", "3"}), shown)

    assert [str(change) for change in changes] == [
        "alias production of digits: wanted 3, found 2",
        "stage of digits@3: wanted Production, found None",
        "stage of digits@2: wanted Archived, found Production",
        "tag modelswitch.at.local of digits@2: wanted archived, found production",
        "tag modelswitch.at.local of digits@3: wanted production, found none",
        f"tag modelswitch.digest of digits@3: wanted {slot(3).digest}, found none",
    ]


def test_a_second_production_made_by_hand_is_a_difference() -> None:
    marks = wanted(Line((slot(3),)), {"3"})
    shown = after(found("3 9", {}), diff(marks, found("3 9", {})))
    by_hand = Marks(
        "digits", versions=shown.versions, values={**shown.values, stage(9): "Production"}
    )

    assert diff(marks, by_hand) == (MarkChange("digits", stage(9), "None", "Production"),)


def test_before_anything_serves_production_of_others_is_left() -> None:
    theirs = found("1 2", {ALIAS: "1", stage(1): "Production"})

    changes = diff(wanted(Line((), (slot(2),)), set()), theirs)

    assert {change.place for change in changes} == {
        stage(2),
        tag(2, "at.local"),
        tag(2, "digest"),
    }


def test_a_model_or_version_that_is_gone_is_told_and_not_written() -> None:
    marks = wanted(LINE, {"2", "3"})

    assert diff(marks, Marks("digits", exists=False)) == (
        MarkChange("digits", Place("model"), "registered", None),
    )
    changes = diff(marks, found("2 4", {}))
    assert changes[0] == MarkChange("digits", Place("version", "3"), "registered", None)
    assert all(c.place.version != "3" and c.place != ALIAS for c in changes[1:])


def test_without_stages_in_mlflow_the_rest_is_marked() -> None:
    bare = Marks("digits", versions={"2", "3", "4"})

    changes = diff(wanted(LINE, {"2", "3"}), bare)

    assert {change.place.what for change in changes} == {"alias", "tag"}


versions = st.integers(1, 6)
slots = st.builds(slot, versions, st.sampled_from("abc"))
lines = st.lists(slots, max_size=5, unique_by=lambda s: s.label).flatmap(
    lambda all_: st.integers(0, len(all_)).map(lambda n: Line(tuple(all_[:n]), tuple(all_[n:])))
)
texts = st.text(min_size=1, max_size=5)
desires = st.builds(
    lambda line, served, bad, name, primary: desired(
        "digits", line, served, bad, name, primary=primary
    ),
    lines,
    st.sets(versions.map(str)),
    st.dictionaries(versions.map(str), texts),
    st.sampled_from(["local", "edge"]),
    st.booleans(),
)
stages = st.sampled_from(["None", "Staging", "Production", "Archived"])
tag_keys = st.sampled_from(["at.local", "at.edge", "at.other", "digest", "quarantined"])
observations = st.sets(versions).flatmap(
    lambda there: st.builds(
        lambda of_stage, of_tag, alias: Marks(
            "digits",
            versions={str(v) for v in there},
            values=of_stage
            | {place: text for place, text in of_tag.items() if place.version in map(str, there)}
            | ({ALIAS: str(alias)} if alias in there else {}),
        ),
        st.fixed_dictionaries({stage(v): stages for v in there}),
        st.dictionaries(st.builds(tag, versions, tag_keys), texts),
        versions,
    )
)


@given(desires, observations)
def test_written_once_nothing_is_left_to_write(marks: Marks, shown: Marks) -> None:
    written = after(shown, diff(marks, shown))

    assert not [change for change in diff(marks, written) if change.is_writable]


@given(desires, observations)
def test_marks_of_other_deployments_are_never_touched(marks: Marks, shown: Marks) -> None:
    for change in diff(marks, shown):
        if change.place.key.startswith("modelswitch.at."):
            assert change.place.key == f"modelswitch.at.{marks.deployment}"
        if not marks.primary and change.is_writable:
            assert change.place.key == f"modelswitch.at.{marks.deployment}"


@given(desires, observations)
def test_only_one_version_is_in_production_once_one_serves(marks: Marks, shown: Marks) -> None:
    written = after(shown, diff(marks, shown))

    if marks.primary and marks.values.get(ALIAS) in shown.versions:
        in_production = [
            p.version for p, v in written.values.items() if v == "Production" and p.what == "stage"
        ]
        assert in_production == [written.values[ALIAS]] == [marks.values[ALIAS]]
