"""How people name a version, and what they are told when it is no name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelswitch.errors import UsageError
from modelswitch.line import Stage
from modelswitch.refs import ModelRef, check_name, label_meant, parse_ref, parse_stage


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("digits", ModelRef("digits")),
        ("digits@3", ModelRef("digits", version="3")),
        ("digits@003", ModelRef("digits", version="3")),
        ("digits@3:ab12cd34", ModelRef("digits", version="3", digest8="ab12cd34")),
        ("digits@3:sha256:" + "ab12cd34" * 8, ModelRef("digits", version="3", digest8="ab12cd34")),
        ("digits@staging", ModelRef("digits", stage=Stage.STAGING)),
        ("digits@Production", ModelRef("digits", stage=Stage.PRODUCTION)),
        ("digits@champion", ModelRef("digits", alias="champion")),
        ("digits@v3", ModelRef("digits", alias="v3")),
        ("my.model_2-x@1", ModelRef("my.model_2-x", version="1")),
    ],
)
def test_a_reference_is_read(text: str, ref: ModelRef) -> None:
    assert parse_ref(text) == ref


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "model name ''"),
        ("@3", "model name ''"),
        ("my model@3", "'my model' cannot be served"),
        ("a/b@3", "'a/b' cannot be served"),
        ("-x@3", "'-x' cannot be served"),
        ("digits\n", "cannot be served"),
        ("x" * 128, "127 characters at most"),
        ("digits@", "names no version after the @"),
        ("digits@3:", "at least 8 hex digits"),
        ("digits@3:xyz", "at least 8 hex digits"),
        ("digits@3:AB12CD34", "at least 8 hex digits"),
        ("digits@a b", "a version, a stage or an alias"),
        ("digits@1.5", "a version, a stage or an alias"),
        ("digits@-1:ab12cd34", "a version, a stage or an alias"),
        ("digits@3@4", "a version, a stage or an alias"),
        ("digits@²", "a version, a stage or an alias"),
        ("digits@٣", "a version, a stage or an alias"),
        ("digits@" + "9" * 5000, "a version, a stage or an alias"),
        ("digits@champion\n", "a version, a stage or an alias"),
    ],
)
def test_what_is_no_reference_is_refused_with_an_example(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ref(text)
    assert says in caught.value.message
    assert caught.value.next
    assert caught.value.exit == 2


@pytest.mark.parametrize("text", ["staging", "Staging", "STAGING"])
def test_a_stage_is_read_in_any_case(text: str) -> None:
    assert parse_stage(text) is Stage.STAGING


def test_an_unknown_stage_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown stage 'prod'") as caught:
        parse_stage("prod")
    assert caught.value.next == "one of: none, staging, production, archived"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("digits@1-8273554e", "digits@1:8273554e"),
        ("digits@1-8273554", None),
        ("digits@champion", None),
        ("digits@1", None),
    ],
)
def test_a_servers_label_for_a_reference_is_guessed(text: str, meant: str | None) -> None:
    found = label_meant(parse_ref(text))
    assert (found and str(found)) == meant


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}", fullmatch=True)
VERSIONS = st.integers(0, 10**9).map(str)
REFS = st.one_of(
    st.builds(ModelRef, NAMES),
    st.builds(ModelRef, NAMES, version=VERSIONS),
    st.builds(
        ModelRef,
        NAMES,
        version=VERSIONS,
        digest8=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    ),
    st.builds(ModelRef, NAMES, stage=st.sampled_from(Stage)),
    st.builds(
        ModelRef,
        NAMES,
        alias=st.from_regex(r"[A-Za-z_-][A-Za-z0-9_-]{0,30}", fullmatch=True).filter(
            lambda a: a.lower() not in set(Stage)
        ),
    ),
)


@given(REFS)
def test_a_reference_reads_as_it_was_written(ref: ModelRef) -> None:
    assert parse_ref(str(ref)) == ref


@given(st.text())
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        ref = parse_ref(text)
    except UsageError:
        return
    assert check_name(ref.name) == ref.name
    assert parse_ref(str(ref)) == ref


def test_a_colon_for_an_at_is_guessed() -> None:
    with pytest.raises(UsageError, match="no reference") as error:
        parse_ref("digits:1")
    assert error.value.next == "is digits@1 meant?"
    with pytest.raises(UsageError, match="no reference") as error:
        parse_ref("digits:fa6881d0")
    assert error.value.next == "is digits@VERSION:fa6881d0 meant?"
