"""The registry and the marks against a real MLflow server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelswitch import marks
from modelswitch.effects import watching
from modelswitch.errors import (
    ArchiveError,
    NotFound,
    Refused,
    RegistryUnreachable,
    SettingsError,
    UsageError,
)
from modelswitch.line import Line, Slot
from modelswitch.registry import Registry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def registry(mlflow_url: str) -> Registry:
    return Registry(mlflow_url)


@pytest.fixture(scope="session")
def client(mlflow_url: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(mlflow_url, mlflow_url)


@pytest.fixture
def name() -> str:
    return f"m-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that is a model to the registry."""
    model = tmp_path / "model"
    (model / "data").mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}\n")
    (model / "data" / "weights").write_bytes(os.urandom(100))
    return model


def log_model(client: Any, folder: Path | None) -> tuple[str, str]:
    """A run with a logged model called `model`; their ids. Without a folder it has no files."""
    from mlflow.entities import LoggedModelOutput

    run_id = client.create_run("0").info.run_id
    logged = client.create_logged_model("0", name="model", source_run_id=run_id)
    if folder:
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return run_id, logged.model_id


@pytest.fixture
def three(registry: Registry, client: Any, name: str, folder: Path) -> str:
    """A model with the versions 1, 2 and 3."""
    for _ in range(3):
        _, model_id = log_model(client, folder)
        registry.register(f"models:/{model_id}", name)
    return name


# Registration


def test_a_runs_model_becomes_a_version_with_its_tags(
    registry: Registry, client: Any, name: str, folder: Path
) -> None:
    run_id, model_id = log_model(client, folder)

    made = registry.register(
        f"runs:/{run_id}/model",
        name,
        tags={"task": "classification"},
        recipe={"workers": 1, "batch_size": 8},
        about={"card": "Ziffern"},
    )

    assert (made.version, made.run_id, made.source) == ("1", run_id, f"models:/{model_id}")
    assert made.is_new
    read = registry.get_version(name, "1")
    assert read.tags == {
        "task": "classification",
        "modelswitch.recipe": '{"batch_size":8,"workers":1}',
        "modelswitch.about": '{"card":"Ziffern"}',
    }
    assert read.stage == "None"
    assert read.status == "READY"


def test_the_same_source_again_is_the_same_version_with_the_new_tags(
    registry: Registry, client: Any, name: str, folder: Path
) -> None:
    run_id, model_id = log_model(client, folder)
    first = registry.register(f"runs:/{run_id}/model", name, tags={"task": "a", "kept": "yes"})
    told: list[dict[str, Any]] = []

    with watching(progress=lambda _, facts: told.append(facts)):
        second = registry.register(f"models:/{model_id}", name, tags={"task": "b"})

    assert second.version == first.version
    assert not second.is_new
    assert second.former == {"task": "a"}
    assert {"model": name, "version": "1", "exists": True} in told
    assert registry.get_version(name, "1").tags == {"task": "b", "kept": "yes"}
    assert len(registry.versions(name)) == 1


def test_a_runs_artifact_folder_of_older_mlflow_becomes_a_version(
    registry: Registry, client: Any, name: str, folder: Path, tmp_path: Path
) -> None:
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(folder), "old/model")

    made = registry.register(f"runs:/{run_id}/old/model", name)
    again = registry.register(f"runs:/{run_id}/old/model", name)

    assert (made.version, again.version, made.run_id) == ("1", "1", run_id)
    fetched = registry.download(name, "1", tmp_path / "into")
    assert (fetched / "data/weights").read_bytes() == (folder / "data/weights").read_bytes()


def test_a_folder_is_uploaded_once(
    registry: Registry, name: str, folder: Path, tmp_path: Path
) -> None:
    made = registry.register(str(folder), name)
    again = registry.register(folder.as_uri(), name)

    assert (made.version, made.is_new, again.version, again.is_new) == ("1", True, "1", False)
    fetched = registry.download(name, "1", tmp_path / "into")
    assert (fetched / "MLmodel").is_file()
    assert (fetched / "data/weights").read_bytes() == (folder / "data/weights").read_bytes()

    (folder / "data/weights").write_bytes(b"trained again")
    assert registry.register(str(folder), name).version == "2"


@pytest.mark.parametrize(
    ("uri", "error", "says"),
    [
        ("runs:/0123456789abcdef/model", NotFound, "0123456789abcdef"),
        ("models:/m-0123456789abcdef", NotFound, "m-0123456789abcdef"),
        ("models:/digits/3", UsageError, "registered version already"),
        ("runs:/0123456789abcdef", UsageError, "names no model"),
        ("nowhere/at/all", NotFound, "no file MLmodel"),
        ("s3://bucket/model", UsageError, "neither a logged model nor a folder"),
    ],
)
def test_what_cannot_be_registered_says_why_and_what_to_do(
    registry: Registry, name: str, uri: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as refused:
        registry.register(uri, name)

    assert refused.value.next  # type: ignore[attr-defined]
    assert name not in {model.name for model in registry.models()}


def test_a_run_without_that_model_names_those_it_has(
    registry: Registry, client: Any, name: str, folder: Path
) -> None:
    run_id, _ = log_model(client, folder)

    with pytest.raises(NotFound, match="has no model 'modle'") as refused:
        registry.register(f"runs:/{run_id}/modle", name)

    assert refused.value.next == f"it has runs:/{run_id}/model"


def test_a_logged_model_without_files_is_refused(
    registry: Registry, client: Any, name: str
) -> None:
    run_id, _ = log_model(client, None)

    with pytest.raises(NotFound, match="has no files"):
        registry.register(f"runs:/{run_id}/model", name)


@pytest.mark.parametrize("tags", [{"modelswitch.digest": "x"}, {"a?": "b"}, {"../a": "b"}])
def test_a_tag_that_is_ours_or_cannot_be_is_refused(
    registry: Registry, name: str, folder: Path, tags: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        registry.register(str(folder), name, tags=tags)


def test_a_name_that_cannot_be_served_is_refused(registry: Registry, folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be served"):
        registry.register(str(folder), "my digits")


# What exists


def test_versions_come_newest_first_with_their_aliases(registry: Registry, three: str) -> None:
    registry.set_alias(three, "champion", "2")
    registry.set_alias(three, "best", "2")

    versions = registry.versions(three)

    assert [(v.version, v.aliases) for v in versions] == [
        ("3", ()),
        ("2", ("best", "champion")),
        ("1", ()),
    ]
    assert registry.resolve_alias(three, "champion") == "2"
    assert registry.get_model(three).aliases == {"champion": "2", "best": "2"}


def test_what_is_not_there_names_what_is(registry: Registry, three: str) -> None:
    registry.set_alias(three, "champion", "2")

    with pytest.raises(NotFound, match="no version 9") as no_version:
        registry.get_version(three, "9")
    with pytest.raises(NotFound, match="no model") as no_model:
        registry.versions(three[:-1])
    with pytest.raises(NotFound, match="no alias 'chalenger'") as no_alias:
        registry.resolve_alias(three, "chalenger")

    assert no_version.value.next == f"{three} has versions 1, 2, 3"
    assert three in str(no_model.value.next)
    assert no_alias.value.next == f"{three} has the aliases champion (2)"
    assert registry.find_version(three, "9") is None


def test_a_version_whose_files_are_gone_cannot_be_downloaded(
    registry: Registry, client: Any, name: str, tmp_path: Path
) -> None:
    _, model_id = log_model(client, None)
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{model_id}", model_id=model_id)

    with pytest.raises(ArchiveError, match=f"{name}@1 has no files") as refused:
        registry.download(name, "1", tmp_path)

    assert "modelswitch register" in str(refused.value.next)


def test_downloading_says_which_versions_there_are(
    registry: Registry, three: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="no version 4"):
        registry.download(three, "4", tmp_path)


# MLflow away


def test_an_mlflow_that_is_away_is_told_at_once_and_without_importing_it() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    code = (
        "import sys\n"
        "from modelswitch.errors import RegistryUnreachable\n"
        "from modelswitch.registry import Registry\n"
        f"try: Registry({url!r}).ping()\n"
        "except RegistryUnreachable as error: print(error)\n"
        "assert 'mlflow' not in sys.modules\n"
    )

    started = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert url in said.stdout
    assert "refused" in said.stdout
    assert time.monotonic() - started < 5


def test_an_mlflow_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}")

        started = time.monotonic()
        with pytest.raises(RegistryUnreachable, match="timed out"):
            hanging.ping()

    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (200, "<html>a router</html>", RegistryUnreachable, "not MLflow.s JSON"),
        (404, "not here", RegistryUnreachable, "404"),
        (502, "bad gateway", RegistryUnreachable, "502"),
        (401, "who are you?", Refused, "who are you"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "not you"}', Refused, "not you"),
    ],
)
def test_what_answers_instead_of_mlflow_becomes_our_error(
    status: int, body: str, error: type[Exception], says: str
) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(error, match=says):
                Registry(f"http://127.0.0.1:{server.server_port}").ping()
        finally:
            server.shutdown()


def test_a_store_without_a_server_is_refused() -> None:
    with pytest.raises(SettingsError, match="over http"):
        Registry("sqlite:///mlflow.db")


# Marks


def slot(version: int) -> Slot:
    return Slot(str(version), "sha256:" + str(version) * 64)


def wanted(model: str, line: Line, quarantined: dict[str, str] | None = None) -> marks.Marks:
    served = {s.version for s in line.serving}
    return marks.desired(model, line, served, quarantined or {}, "local", primary=True)


def write(registry: Registry, desired: marks.Marks) -> tuple[marks.MarkChange, ...]:
    return marks.apply(registry, marks.diff(desired, marks.observe(registry, desired.model)))


def test_marks_follow_a_promotion_and_a_rollback(
    registry: Registry, client: Any, three: str
) -> None:
    client.set_model_version_tag(three, "3", "mine", "kept")
    client.set_registered_model_alias(three, "champion", "1")
    write(registry, wanted(three, Line((slot(2),), (slot(3),))))

    left = write(registry, wanted(three, Line((slot(3), slot(2)))))

    assert left == ()
    found = {v.version: v for v in registry.versions(three)}
    assert {v: found[v].stage for v in found} == {"1": "None", "2": "Archived", "3": "Production"}
    assert found["3"].aliases == ("production",)
    assert found["1"].aliases == ("champion",)
    assert found["3"].tags == {
        "mine": "kept",
        "modelswitch.at.local": "production",
        "modelswitch.digest": slot(3).digest,
    }

    back = wanted(three, Line((slot(2),)), quarantined={"3": "worse"})
    assert write(registry, back) == ()

    found = {v.version: v for v in registry.versions(three)}
    assert {v: found[v].stage for v in found} == {"1": "None", "2": "Production", "3": "None"}
    assert found["2"].aliases == ("production",)
    assert found["3"].tags["modelswitch.quarantined"] == "worse"
    assert "modelswitch.at.local" not in found["3"].tags


def test_nothing_is_written_twice(registry: Registry, three: str) -> None:
    desired = wanted(three, Line((slot(2), slot(1)), (slot(3),)))
    write(registry, desired)
    boundaries: list[str] = []

    with watching(boundary=lambda name, _: boundaries.append(name)):
        left = write(registry, desired)

    assert (left, boundaries) == ((), [])


def test_changes_by_hand_are_named_and_put_right(
    registry: Registry, client: Any, three: str
) -> None:
    desired = wanted(three, Line((slot(2),)))
    write(registry, desired)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(three, "1", "Production")
    client.set_registered_model_alias(three, "production", "1")
    client.delete_model_version_tag(three, "2", "modelswitch.digest")

    changes = marks.diff(desired, marks.observe(registry, three))

    assert [str(change) for change in changes] == [
        f"alias production of {three}: wanted 2, found 1",
        f"stage of {three}@1: wanted None, found Production",
        f"tag modelswitch.digest of {three}@2: wanted {slot(2).digest}, found none",
    ]
    assert marks.apply(registry, changes) == ()
    assert marks.diff(desired, marks.observe(registry, three)) == ()


def test_of_two_late_mirrors_the_older_writes_what_the_newer_head_says(
    registry: Registry, three: str
) -> None:
    older, newer = (wanted(three, Line((slot(v),))) for v in (2, 3))
    stale = marks.diff(older, marks.observe(registry, three))

    left = marks.apply(
        registry, stale, again=lambda: marks.diff(newer, marks.observe(registry, three))
    )

    assert left == ()
    assert marks.diff(newer, marks.observe(registry, three)) == ()


def test_a_version_deleted_in_mlflow_is_told_and_the_rest_is_marked(
    registry: Registry, client: Any, three: str
) -> None:
    desired = wanted(three, Line((slot(3), slot(2))))
    before = marks.diff(desired, marks.observe(registry, three))
    client.delete_model_version(three, "2")

    left = marks.apply(
        registry, before, again=lambda: marks.diff(desired, marks.observe(registry, three))
    )

    gone = marks.MarkChange(three, marks.Place("version", "2"), "registered", None)
    assert left == (gone,)
    assert registry.get_version(three, "3").stage == "Production"


def test_a_model_deleted_in_mlflow_is_told(registry: Registry, client: Any, three: str) -> None:
    client.delete_registered_model(three)

    left = write(registry, wanted(three, Line((slot(3),))))

    assert [str(change) for change in left] == [f"model of {three}: wanted registered, found none"]


def test_the_first_look_and_a_switch_take_few_calls(
    registry: Registry, three: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    write(registry, wanted(three, Line((slot(2),), (slot(3),))))
    calls: list[str] = []
    send = httpx.Client.send

    def counted(self: Any, request: httpx.Request, **options: Any) -> Any:
        calls.append(request.method)
        return send(self, request, **options)

    monkeypatch.setattr(httpx.Client, "send", counted)

    write(registry, wanted(three, Line((slot(3), slot(2)))))

    # Two to look, one each for the alias, two stages and two tags, two to look again.
    assert calls.count("POST") == 5
    assert len(calls) == 2 + 5 + 2


def test_a_login_that_only_mlflows_client_knows_goes_through_it(
    registry: Registry, three: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    asked: list[str] = []
    get = mlflow.MlflowClient.get_registered_model
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "")
    monkeypatch.setattr("modelswitch.registry.door.is_enough", lambda: False)
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "get_registered_model",
        lambda self, name: asked.append(name) or get(self, name),
    )

    by_client = registry.versions(three)

    monkeypatch.undo()
    assert asked == [three]
    assert by_client == registry.versions(three)
