"""Settings: where they are found, what stands over what, and what is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelswitch.errors import SettingsError
from modelswitch.settings import PREFIX, find_root, load


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [v for v in os.environ if v.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def write(folder: Path, text: str) -> Path:
    path = folder / "modelswitch.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_default_works_without_a_file(tmp_path: Path) -> None:
    settings = load()
    assert settings.deployment == "local"
    assert settings.primary
    assert (settings.ways_back, settings.max_candidates) == (1, 1)
    assert settings.timeouts.load_s == 120
    assert settings.state_dir == tmp_path / ".modelswitch"
    assert settings.fleet_path == tmp_path / ".modelswitch" / "fleet"
    assert settings.store == (tmp_path / ".modelswitch" / "archives").as_uri()


def test_the_file_is_found_upward_and_its_folder_is_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 'deployment = "staging-eu"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load().deployment == "staging-eu"
    assert load().root == tmp_path
    assert find_root(below) == tmp_path


def test_a_state_folder_marks_the_root_too(tmp_path: Path) -> None:
    (tmp_path / ".modelswitch").mkdir()
    below = tmp_path / "a"
    below.mkdir()
    assert load(start=below).state_dir == tmp_path / ".modelswitch"


def test_relative_paths_start_at_the_root_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        '[fleet]\npath = "shared"\n[local]\nstate_dir = "state"\n'
        '[server]\nmodel_store = "store"\nlog_dir = "/var/log/ts"\n',
    )
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    settings = load()
    assert settings.fleet_path == tmp_path / "shared"
    assert settings.state_dir == tmp_path / "state"
    assert settings.server.model_store == tmp_path / "store"
    assert settings.server.log_dir == Path("/var/log/ts")


def test_a_named_file_is_taken_and_its_folder_is_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 'deployment = "here"\n')
    other = tmp_path / "other"
    other.mkdir()
    named = other / "prod.toml"
    named.write_text('deployment = "prod"\n')
    assert load(file=named).deployment == "prod"
    assert load(file=Path("other/prod.toml")).root == other
    monkeypatch.setenv("MODELSWITCH_CONFIG", str(named))
    assert load().deployment == "prod"
    assert load(file=tmp_path / "modelswitch.toml").deployment == "here"


def test_a_named_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\.toml does not exist"):
        load(file=tmp_path / "no.toml")


def test_the_environment_stands_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 'deployment = "file"\n[timeouts]\nload_s = 5\nprove_s = 6\n')
    monkeypatch.setenv("MODELSWITCH_DEPLOYMENT", "environment")
    monkeypatch.setenv("MODELSWITCH_TIMEOUTS__LOAD_S", "7.5")
    settings = load()
    assert settings.deployment == "environment"
    assert (settings.timeouts.load_s, settings.timeouts.prove_s) == (7.5, 6)


def test_the_flag_stands_over_both_and_the_environment_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 'deployment = "file"\n')
    monkeypatch.setenv("MODELSWITCH_DEPLOYMENT", "environment")
    assert load(deployment="flag").deployment == "flag"
    assert os.environ["MODELSWITCH_DEPLOYMENT"] == "environment"


def test_a_wrong_flag_is_said_to_be_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"^--deployment: .*\(found 'a b'\)$"):
        load(deployment="a b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("deploymnet = 1", ["deploymnet is not a setting", "known: deployment, primary, "]),
        ('[fleet]\npaht = "x"', ["fleet.paht is not a setting", "known: kind, path"]),
        ("[flete]\n", ["flete is not a setting", "known: "]),
        ("ways_back = 0", ["ways_back: ", "greater than or equal to 1", "(found 0)"]),
        ('ways_back = "two"', ["ways_back: ", "valid integer", "(found 'two')"]),
        ('[fleet]\nkind = "ftp"', ["fleet.kind: ", "'folder'", "(found 'ftp')"]),
        ('deployment = "a b"', ["deployment: ", "pattern", "(found 'a b')"]),
        ("[timeouts]\nload_s = -1", ["timeouts.load_s: ", "greater than 0", "(found -1)"]),
        ("[local]\nport_base = 80", ["local.port_base: ", "1024", "(found 80)"]),
        ("fleet = 3", ["fleet: ", "(found 3)"]),
        ("deployment = ", ["is not TOML", "Invalid value"]),
        ('root = "/"', ["root: not a setting"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_file_key_found_and_allowed(
    tmp_path: Path, text: str, says: list[str]
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    for part in says:
        assert part in caught.value.message
    assert caught.value.exit == 2


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "modelswitch.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not TOML"):
        load()


@pytest.mark.parametrize(
    "line",
    [
        'database_url = "postgresql+psycopg2://me:hunter2@db/modelswitch"',
        'database_url = "postgresql://me@db/modelswitch?sslmode=require&password=hunter2"',
        'tracking_uri = "https://me:hunter2@mlflow.example.org"',
        'store_url = "ftp://me:hunter2@files/archives"',
    ],
)
def test_a_password_in_the_file_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, line)
    with pytest.raises(SettingsError) as caught:
        load()
    key = line.partition(" ")[0]
    assert f"{path}: {key} holds a password" in caught.value.message
    assert f"MODELSWITCH_{key.upper()}" in (caught.value.next or "")
    assert "hunter2" not in str(caught.value) + str(caught.value.next)


def test_a_password_in_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg2://me:hunter2@db/modelswitch"
    monkeypatch.setenv("MODELSWITCH_DATABASE_URL", url)
    assert load().database_url == url


def test_a_url_without_a_password_is_taken(tmp_path: Path) -> None:
    write(tmp_path, 'database_url = "postgresql+psycopg2://me@db/modelswitch?host=/run/pg"')
    assert load().database_url == "postgresql+psycopg2://me@db/modelswitch?host=/run/pg"


def test_an_address_that_is_none_is_no_crash(tmp_path: Path) -> None:
    path = write(tmp_path, 'database_url = "postgresql://[me"')
    with pytest.raises(SettingsError, match="database_url: not an address") as caught:
        load()
    assert str(path) in caught.value.message


def test_an_unknown_variable_is_refused_naming_the_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODELSWITCH_DEPLOYMNET", "x")
    with pytest.raises(SettingsError, match="MODELSWITCH_DEPLOYMNET is not a setting") as caught:
        load()
    assert "MODELSWITCH_DEPLOYMENT" in (caught.value.next or "")


def test_an_unknown_variable_of_a_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSWITCH_FLEET__PAHT", "x")
    with pytest.raises(SettingsError, match=r"^MODELSWITCH_FLEET__PAHT is not a setting"):
        load()


@pytest.mark.parametrize("variable", ["ACTOR", "LOG", "CONFIG"])
def test_variables_that_are_read_elsewhere_are_let_pass(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PREFIX + variable, str(write(tmp_path, "")))
    assert load().deployment == "local"


def test_a_wrong_value_in_a_variable_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSWITCH_LOCAL__SERVERS", "many")
    with pytest.raises(SettingsError, match=r"^MODELSWITCH_LOCAL__SERVERS: .*\(found 'many'\)"):
        load()


def test_a_section_is_not_set_by_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSWITCH_FLEET", "folder")
    with pytest.raises(SettingsError, match="MODELSWITCH_FLEET") as caught:
        load()
    assert "MODELSWITCH_FLEET__PATH" in caught.value.message


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load(), "deployment", "other")  # noqa: B010 (mypy knows it too)
