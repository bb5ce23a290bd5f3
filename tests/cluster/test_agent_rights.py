"""What the agents' ServiceAccount may do, and what not: asked with a real pod's token."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modelswitch.fleet.condition import CONDITION
from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import copied_overlay
from tests.site import wait_for

ACCOUNT = "modelswitch-agent"
NAMESPACE = "test-rights"
PINS = "modelswitch-pins-dev"
PATCH = "application/strategic-merge-patch+json"


class Agent:
    """Requests to the API server as the agent in one pod."""

    def __init__(self, plane: ControlPlane, token: str) -> None:
        self.http = httpx.Client(
            base_url=plane.url,
            verify=ssl.create_default_context(cafile=str(plane.ca_file)),
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
        )

    def ask(
        self, method: str, path: str, body: Any = None, *, namespace: str = NAMESPACE
    ) -> httpx.Response:
        """`path` is below the namespace, or starts with / and is whole."""
        url = path if path.startswith("/") else f"/api/v1/namespaces/{namespace}/{path}"
        headers = {"Content-Type": PATCH if method == "PATCH" else "application/json"}
        content = None if body is None else json.dumps(body)
        return self.http.request(method, url, content=content, headers=headers)


@pytest.fixture(scope="module")
def pods(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two pods of the dev overlay, with pins."""
    overlay = copied_overlay(tmp_path_factory.mktemp("overlay"), "dev", NAMESPACE)
    plane.kubectl("apply", "-k", str(overlay))
    plane.kubectl("create", "configmap", PINS, "-n", NAMESPACE, "--from-literal=pins.json={}")
    plane.kubectl("create", "configmap", "other", "-n", NAMESPACE, "--from-literal=a=b")
    plane.kubectl("scale", "deployment/torchserve", "-n", NAMESPACE, "--replicas=2")
    plane.kubectl("rollout", "status", "deployment/torchserve", "-n", NAMESPACE, "--timeout=60s")
    yield [pod["metadata"]["name"] for pod in plane.get("pods", "-n", NAMESPACE)["items"]]
    plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def agent(plane: ControlPlane, pods: list[str]) -> Iterator[Agent]:
    """The agent of the first of them."""
    asking = Agent(plane, plane.pod_token(NAMESPACE, ACCOUNT, pods[0]))
    yield asking
    asking.http.close()


def condition(status: str, kind: str = CONDITION) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": "Applied"}]}


# What it may


def test_it_reads_and_watches_its_pins(plane: ControlPlane, agent: Agent) -> None:
    assert agent.ask("GET", f"configmaps/{PINS}").status_code == 200
    selected = f"configmaps?fieldSelector=metadata.name={PINS}"
    assert [i["metadata"]["name"] for i in agent.ask("GET", selected).json()["items"]] == [PINS]
    url = f"/api/v1/namespaces/{NAMESPACE}/{selected}&watch=true&timeoutSeconds=20"
    with agent.http.stream("GET", url) as events:
        lines = events.iter_lines()
        assert json.loads(next(lines))["type"] == "ADDED"
        plane.kubectl("annotate", f"configmap/{PINS}", "-n", NAMESPACE, "news=1")
        assert json.loads(next(lines))["type"] == "MODIFIED"


def test_it_writes_its_condition_again_and_again(
    plane: ControlPlane, agent: Agent, pods: list[str]
) -> None:
    for status in ("False", "True"):
        answer = agent.ask("PATCH", f"pods/{pods[0]}/status", {"status": condition(status)})
        assert answer.status_code == 200, answer.text
        found = plane.get(f"pod/{pods[0]}", "-n", NAMESPACE)["status"]["conditions"]
        assert [c["status"] for c in found if c["type"] == CONDITION] == [status]
        assert [c["status"] for c in found if c["type"] == "Ready"] == ["True"]


def test_a_patch_of_nothing_answers_with_its_own_pod(agent: Agent, pods: list[str]) -> None:
    answer = agent.ask("PATCH", f"pods/{pods[0]}/status", {})
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["name"] == pods[0]


# What it may not

OWN, OTHER = "OWN", "OTHER"
BEYOND_ITS_CONDITION = {
    "phase": {"status": {"phase": "Failed"}},
    "address": {
        "status": {"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}, {"$patch": "replace"}]}
    },
    "host": {"status": {"hostIP": "10.9.9.9"}},
    "start": {"status": {"startTime": "2020-01-01T00:00:00Z"}},
    "node": {"status": {"nominatedNodeName": "node-0"}},
    "reason": {"status": {"reason": "Evicted"}},
    "message": {"status": {"message": "all is well"}},
    "containers": {"status": {"containerStatuses": []}},
    "sidecars": {"status": {"initContainerStatuses": None}},
    "readiness": {"status": condition("False", "Ready")},
    "a condition of its own making": {"status": condition("True", "example.com/other")},
    "a condition taken away": {"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}},
    "labels": {"metadata": {"labels": {"modelswitch.dev/pool": "other"}}},
    "annotations": {"metadata": {"annotations": {"a": "b"}}},
    "finalizers": {"metadata": {"finalizers": ["example.com/stay"]}},
}


@pytest.mark.parametrize("body", BEYOND_ITS_CONDITION.values(), ids=BEYOND_ITS_CONDITION.keys())
def test_of_its_own_pod_it_changes_nothing_else(
    agent: Agent, pods: list[str], body: dict[str, Any]
) -> None:
    answer = agent.ask("PATCH", f"pods/{pods[0]}/status", body)
    assert answer.status_code == 403, answer.text
    assert "an agent" in answer.json()["message"]


@pytest.mark.parametrize("body", [{"status": condition("True")}, {}], ids=["condition", "nothing"])
def test_it_touches_no_other_pods_status(
    agent: Agent, pods: list[str], body: dict[str, Any]
) -> None:
    answer = agent.ask("PATCH", f"pods/{pods[1]}/status", body)
    assert answer.status_code == 403, answer.text
    assert f"its token is for {pods[0]}, not for {pods[1]}" in answer.json()["message"]


def test_a_token_of_no_pod_writes_no_status(plane: ControlPlane, pods: list[str]) -> None:
    token = plane.kubectl("create", "token", ACCOUNT, "-n", NAMESPACE).stdout.strip()
    unbound = Agent(plane, token)
    answer = unbound.ask("PATCH", f"pods/{pods[0]}/status", {"status": condition("True")})
    unbound.http.close()
    assert answer.status_code == 403, answer.text
    assert "its token is for no pod" in answer.json()["message"]


def test_a_pod_of_the_same_name_elsewhere_is_not_its_own(
    plane: ControlPlane, agent: Agent, pods: list[str], namespace: str
) -> None:
    pod = plane.get(f"pod/{pods[0]}", "-n", NAMESPACE)
    namesake = {"name": pods[0], "namespace": namespace}
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": namesake,
            "spec": {
                "securityContext": pod["spec"]["securityContext"],
                "containers": [{key: pod["spec"]["containers"][0][key] for key in _OF_A_CONTAINER}],
            },
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "test-status"},
            "rules": [{"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "generous", "namespace": namespace},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "test-status",
            },
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
        },
    )
    body = {"status": condition("True")}
    answer = agent.ask("PATCH", f"pods/{pods[0]}/status", body, namespace=namespace)
    assert answer.status_code == 403, answer.text
    assert "an agent patches the status of its own pod only" in answer.json()["message"]


_OF_A_CONTAINER = ("name", "image", "securityContext")
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/torchserve"
EVENT = {
    "metadata": {"name": "told"},
    "involvedObject": {"kind": "Pod", "namespace": NAMESPACE, "name": "x"},
}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "secrets", None),
        ("GET", "secrets/any", None),
        ("GET", "configmaps", None),
        ("GET", "configmaps/other", None),
        ("GET", "configmaps?fieldSelector=metadata.name=other&watch=true", None),
        ("GET", "/api/v1/configmaps", None),
        ("PATCH", f"configmaps/{PINS}", {"data": {"pins.json": "{}"}}),
        ("PUT", f"configmaps/{PINS}", {"metadata": {"name": PINS}, "data": {}}),
        ("DELETE", f"configmaps/{PINS}", None),
        ("POST", "configmaps", {"metadata": {"name": "more"}}),
        ("GET", "pods", None),
        ("GET", f"pods/{OWN}", None),
        ("GET", f"pods/{OWN}/status", None),
        ("GET", f"pods/{OTHER}/log", None),
        ("PATCH", f"pods/{OWN}", {"metadata": {"labels": {"a": "b"}}}),
        ("PUT", f"pods/{OWN}/status", {"metadata": {"name": OWN}}),
        ("DELETE", f"pods/{OWN}", None),
        ("DELETE", f"pods/{OTHER}", None),
        ("POST", f"pods/{OWN}/eviction", {"metadata": {"name": OWN}}),
        ("POST", f"pods/{OWN}/exec?command=id", None),
        ("POST", f"pods/{OTHER}/portforward?ports=8081", None),
        ("POST", f"pods/{OTHER}/proxy/", None),
        ("POST", "events", EVENT),
        ("POST", f"serviceaccounts/{ACCOUNT}/token", {}),
        ("GET", DEPLOYMENT, None),
        ("PATCH", DEPLOYMENT, {"spec": {"replicas": 0}}),
        ("PATCH", f"{DEPLOYMENT}/scale", {"spec": {"replicas": 0}}),
        ("GET", "/api/v1/nodes", None),
        ("GET", "/api/v1/namespaces", None),
    ],
)
def test_it_may_do_nothing_else(
    agent: Agent, pods: list[str], method: str, path: str, body: Any
) -> None:
    named = path.replace(OWN, pods[0]).replace(OTHER, pods[1])
    answer = agent.ask(method, named, body)
    assert answer.status_code == 403, answer.text
    assert f"serviceaccount:{NAMESPACE}:{ACCOUNT}" in answer.json()["message"]


def test_its_token_ends_with_its_pod(plane: ControlPlane, pods: list[str]) -> None:
    plane.kubectl("scale", "deployment/torchserve", "-n", NAMESPACE, "--replicas=3")
    plane.kubectl("rollout", "status", "deployment/torchserve", "-n", NAMESPACE, "--timeout=60s")
    found = {pod["metadata"]["name"] for pod in plane.get("pods", "-n", NAMESPACE)["items"]}
    third = (found - set(pods)).pop()
    # Two, since the API server remembers for 10 s what it has once taken
    tokens = [plane.pod_token(NAMESPACE, ACCOUNT, third, hours=hours) for hours in (1, 2)]
    before, after = (Agent(plane, token) for token in tokens)
    assert before.ask("GET", f"configmaps/{PINS}").status_code == 200
    plane.kubectl("delete", "pod", third, "-n", NAMESPACE)
    # It hears of pods by a watch of its own, a moment later
    wait_for(lambda: after.ask("GET", f"configmaps/{PINS}").status_code == 401, 30.0)
    before.http.close()
    after.http.close()
