"""Three real TorchServes and agents follow one ConfigMap on a real API server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import terraform
from tests.cluster.binaries import Binaries
from tests.cluster.control_plane import ControlPlane
from tests.cluster.site import NAMESPACE, ROOT, WHY, Site, damaged, running_site
from tests.stack.clients import Clients
from tests.stack.deployment import Deployment, wait_for
from tests.stack.models import LIGHT

MAP = "modelswitch-pins-dev"
APPLY = (
    f"kubectl create configmap {MAP} -n {NAMESPACE} --from-file=pins.json --dry-run=client "
    "-o yaml | kubectl apply --server-side --force-conflicts -f -"
)
MARKED = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)


def marked_commands(document: Path) -> list[str]:
    """One line each."""
    text = document.read_text(encoding="utf-8")
    return [line for block in MARKED.findall(text) for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def pods(
    plane: ControlPlane,
    binaries: Binaries,
    deployment: Deployment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    with running_site(plane, binaries, deployment, tmp_path_factory.mktemp("tree")) as site:
        yield site


def test_the_guides_commands_do_what_it_says(pods: Site) -> None:
    """Those of docs/kubernetes.md that are marked, in their order, on another model's name."""
    pods.stand("2", "1")
    pods.switch.moves.retire(LIGHT, None, WHY)
    pods.switch.resume()
    told = {}
    for line in marked_commands(ROOT / "docs" / "kubernetes.md"):
        told[line] = pods.type(line.replace("digits", LIGHT))
    wait_for(lambda: set(pods.serve().values()) == {"2"})
    described = next(said for line, said in told.items() if line.startswith("kubectl describe"))
    assert "wrong on sevens" in described
    pods.assert_one_story("2")


def test_versions_change_under_load_and_nobody_notices(pods: Site) -> None:
    pods.stand("2", "1")
    with Clients(pods.urls, model=LIGHT) as clients:
        staged = pods.well("promote", f"{LIGHT}@3", "--to", "staging", "--reason", "a look")
        promoted = pods.well("promote", f"{LIGHT}@3", "--reason", "better")
        wait_for(lambda: clients.answered["3"] > 50)
        back = pods.well("rollback", LIGHT, "--reason", "worse after all")
        wait_for(lambda: set(pods.serve().values()) == {"2"})
    print(f"three pods under load: {clients}")
    assert not clients.failed
    assert not clients.wrong
    assert set(clients.answered) == {"2", "3"}
    for moved in (staged, promoted, back):
        assert [s["state"] for s in moved["servers"]] == ["proven"] * 3
        assert {s["name"] for s in moved["servers"]} == set(pods.pairs)
    pods.assert_one_story("2")


@pytest.mark.cluster_wide
@terraform.installed
def test_terraform_publishes_and_goes_back_under_load(pods: Site, tmp_path: Path) -> None:
    pods.stand("2", "1")
    with pods.published_by_terraform(tmp_path), Clients(pods.urls, model=LIGHT) as clients:
        pods.well("promote", f"{LIGHT}@1", "--reason", "by Terraform")
        wait_for(lambda: set(pods.serve().values()) == {"1"})
        pods.well("rollback", LIGHT, "--reason", "and back", "--yes")
        wait_for(lambda: set(pods.serve().values()) == {"2"})
        managers = pods.plane.get("configmap", MAP, "-n", NAMESPACE, "--show-managed-fields")
    print(f"three pods under load, by Terraform: {clients}")
    assert not clients.failed
    assert not clients.wrong
    # What the provider calls itself
    assert "HashiCorp" in {m["manager"] for m in managers["metadata"]["managedFields"]}
    pods.assert_one_story("2")


def test_a_plan_waits_for_its_pull_request_and_is_proven(pods: Site) -> None:
    pods.stand("1", "2")
    pods.well("promote", f"{LIGHT}@3", "--to", "staging", "--reason", "a look")
    planned = pods.well("promote", f"{LIGHT}@3", "--reason", "reviewed", "--plan")
    assert planned["plan"] == str(pods.root / "pins.json")
    assert set(pods.serve().values()) == {"1"}
    assert pods.run("resume").exit == 5
    assert pods.run("diff").exit == 3

    waiting = pods.start("resume", "--wait")
    pods.type(APPLY)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, out + err
    assert set(pods.serve().values()) == {"3"}
    pods.assert_one_story("3")


@pytest.mark.cluster_wide
def test_the_api_server_restarts_while_a_plan_is_merged(pods: Site) -> None:
    pods.stand("1", "2")
    pods.well("promote", f"{LIGHT}@3", "--to", "staging", "--reason", "a look")
    pods.well("promote", f"{LIGHT}@3", "--reason", "reviewed", "--plan")
    waiting = pods.start("resume", "--wait")
    with Clients(pods.urls, count=3, model=LIGHT) as clients:
        pods.type(APPLY)
        pods.plane.stop_api_server()
        pods.plane.start_api_server()
        out, err = waiting.communicate(timeout=120)
        if waiting.returncode:  # it asked while nobody was there
            assert '"fleet_unreachable"' in out, out + err
            pods.well("resume", "--wait")
    assert not clients.failed
    assert not clients.wrong
    pods.assert_one_story("3")


@pytest.mark.cluster_wide
def test_what_is_exported_can_be_applied_by_hand(pods: Site) -> None:
    pods.stand("1", "2")
    pods.plane.kubectl("delete", "configmap", MAP, "-n", NAMESPACE)
    pods.wait_exit(3, "status")
    assert set(pods.serve().values()) == {"1"}, "what serves goes on serving"
    assert pods.run("diff").exit == 3
    pods.type(f"modelswitch pins export --format configmap | kubectl apply -n {NAMESPACE} -f -")
    pods.wait_exit(0, "status")
    pods.assert_one_story("1")


@pytest.mark.cluster_wide
def test_pins_edited_by_hand_are_refused_and_told(pods: Site) -> None:
    pods.stand("2", "1")
    text = pods.switch.pins().text
    slot = pods.slot("1")
    edited = text.replace(
        f'"default": "{pods.slot("2").label}"', f'"default": "{slot.label}"'
    ).replace(f'"back": [\n        "{slot.label}"\n      ]', '"back": []')
    assert edited != text
    (pods.root / "edited.json").write_text(edited)
    pods.type(
        f"kubectl create configmap {MAP} -n {NAMESPACE} --from-file=pins.json=edited.json "
        "--dry-run=client -o yaml | kubectl apply --server-side --force-conflicts -f -"
    )
    wait_for(lambda: all("refused" in str(pair.report().error) for pair in pods.pairs.values()))
    assert set(pods.serve().values()) == {"2"}
    said = pods.run("diff")
    assert said.exit == 3
    assert "not from the ledger" in said.out
    pods.well("resume")
    pods.assert_one_story("2")


def test_one_pod_with_a_damaged_archive_keeps_everybody_where_they_are(
    pods: Site, tmp_path: Path
) -> None:
    pods.stand("2", "1")
    slot = pods.slot("3")
    store = Path(pods.stack.settings.store.removeprefix("file://"))
    victim = pods.move_to_store(damaged(store, slot.digest, tmp_path / "damaged").as_uri())
    said = pods.run("promote", f"{LIGHT}@3", "--reason", "damaged somewhere")
    assert said.exit == 4, said
    assert victim in said.message
    assert "sha256" in said.message
    assert set(pods.serve().values()) == {"2"}
    pods.assert_one_story("2")
    pods.move_to_store(pods.stack.settings.store)


@pytest.mark.cluster_wide
def test_the_api_server_is_away_for_a_while(pods: Site) -> None:
    pods.stand("2", "1")
    with Clients(pods.urls, count=3, model=LIGHT) as clients:
        pods.plane.stop_api_server()
        try:
            said = pods.run("promote", f"{LIGHT}@1", "--reason", "nobody hears it")
            assert said.exit == 1, said
            assert said.code == "fleet_unreachable"
            answered = sum(clients.answered.values())
            wait_for(lambda: sum(clients.answered.values()) > answered + 100)
        finally:
            pods.plane.start_api_server()
        pods.well("promote", f"{LIGHT}@1", "--reason", "heard again")
    assert not clients.failed
    assert not clients.wrong
    pods.assert_one_story("1")


@pytest.mark.cluster_wide
def test_an_agent_and_a_torchserve_are_killed(pods: Site) -> None:
    pods.stand("2", "1")
    first, second, *_ = pods.pairs.values()
    first.kill_agent()
    second.stop_server()
    pods.wait_exit(3, "status")
    first.start_agent()
    second.start_server()
    wait_for(lambda: set(pods.serve().values()) == {"2"})
    pods.well("promote", f"{LIGHT}@1", "--reason", "after all that")
    pods.assert_one_story("1")


@pytest.mark.cluster_wide
def test_two_promotions_at_once_end_in_one_story(pods: Site) -> None:
    pods.stand("1", "2")
    pods.well("promote", f"{LIGHT}@3", "--to", "staging", "--reason", "warm")
    both = [
        pods.start("promote", f"{LIGHT}@{version}", "--reason", "a race") for version in ("2", "3")
    ]
    codes = []
    for process in both:
        process.communicate(timeout=120)
        codes.append(process.returncode)
    assert 0 in codes
    pods.well("resume")
    serving = set(pods.serve().values())
    assert len(serving) == 1
    pods.assert_one_story(serving.pop())


@pytest.mark.cluster_wide
def test_a_pod_is_gone_during_a_rollback_and_another_joins(pods: Site) -> None:
    pods.stand("2", "1")
    gone, pair = next(iter(pods.pairs.items()))
    pair.kill_agent()
    pair.stop_server()
    del pods.pairs[gone]
    said = pods.run("rollback", LIGHT, "--reason", "while one is away", "--yes")
    assert said.exit == 4, said
    assert gone in said.message
    assert set(pods.serve().values()) == {"1"}

    pods.plane.kubectl("delete", "pod", gone, "-n", NAMESPACE, "--wait=false")
    wait_for(lambda: gone not in pods.pods())
    pods.start_pods()
    wait_for(lambda: set(pods.serve().values()) == {"1"})
    assert len(pods.serve()) == 3
    pods.assert_one_story("1")


def test_no_pod_is_no_success(pods: Site) -> None:
    pods.stand("2", "1")
    scale = f"kubectl scale deployment torchserve -n {NAMESPACE} --replicas"
    pods.type(f"{scale}=0")
    wait_for(lambda: not pods.pods())
    said = pods.run("promote", f"{LIGHT}@1", "--reason", "to nobody")
    assert (said.exit, said.code) == (1, "fleet_unreachable")
    assert "no live server in the pool default" in said.message
    rolled = pods.run("rollback", LIGHT, "--reason", "to nobody", "--yes")
    assert rolled.exit != 0


@pytest.mark.cluster_wide
def test_a_lost_cluster_comes_back_from_the_ledger(pods: Site) -> None:
    """The guide's way back, with the development overlay."""
    standing = pods.line.default
    assert standing
    pods.lose()

    pods.deploy()
    pods.type("modelswitch resume")
    pods.start_pods()

    wait_for(lambda: set(pods.serve().values()) == {standing.version})
    pods.wait_exit(0, "status")
    pods.assert_one_story(standing.version)
