"""The pipeline by command lines, on three real servers: stage, promote, predict, roll back."""

from __future__ import annotations

import json
from pathlib import Path

from tests.stack.deployment import Deployment, wait_for
from tests.stack.models import MODEL, REQUEST, SCRIPTED, answer_of


def test_a_version_goes_to_production_and_back(deployment: Deployment, tmp_path: Path) -> None:
    deployment.clear()
    sample = tmp_path / "sample.json"
    sample.write_text(json.dumps(REQUEST))

    def line(*words: str) -> dict[str, object]:
        said = deployment.run(*words)
        assert said.exit == 0, said
        return said.document

    line("promote", f"{MODEL}@1", "--to", "staging", "--reason", "to be looked at")
    assert deployment.all_serve() == {None}
    line("promote", f"{MODEL}@1", "--reason", "the first")
    line("promote", f"{MODEL}@2", "--reason", "better")
    assert deployment.all_serve() == {"2"}

    shown = line("show", f"{MODEL}@2")["data"]
    for server in deployment.urls:
        answer = deployment.ask(server)
        assert answer.headers["x-model-version"] == f"{MODEL}@2"
        assert answer.headers["x-archive-digest"] in json.dumps(shown)
    said = line("predict", MODEL, "--input", str(sample))["data"]
    assert said["answer"] == {"predictions": answer_of("2")}  # type: ignore[index]

    registry = deployment.switch.registry
    assert registry.resolve_alias(MODEL, "production") == "2"
    assert registry.get_version(MODEL, "2").stage == "Production"
    assert registry.get_version(MODEL, "2").tags["modelswitch.at.local"] == "production"
    assert registry.get_version(MODEL, "1").stage == "Archived"

    moved = line("rollback", MODEL, "--reason", "worse after all")["data"]
    assert (moved["from"], moved["to"], moved["marks"]) == ("2", "1", "done")  # type: ignore[index]
    assert deployment.all_serve() == {"1"}
    assert registry.resolve_alias(MODEL, "production") == "1"
    assert "modelswitch.quarantined" in registry.get_version(MODEL, "2").tags

    rows = line("history", MODEL)["data"]
    assert [row["action"] for row in rows][:2] == ["rollback", "promote"]  # type: ignore[attr-defined]
    assert rows[0]["reason"] == "worse after all"  # type: ignore[index]
    wait_for(lambda: deployment.run("diff").exit == 0)


def test_torchscript_is_served_too(deployment: Deployment) -> None:
    said = deployment.run("promote", f"{SCRIPTED}@1", "--reason", "scripted")
    assert said.exit == 0, said
    for server in deployment.urls:
        assert deployment.ask(server, SCRIPTED).json() == {"predictions": answer_of("1")}
    assert deployment.run("retire", SCRIPTED, "--reason", "seen").exit == 0
