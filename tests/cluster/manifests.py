"""k8s/ as a test applies it: a copy whose overlay gets a namespace of its own, and what it adds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import ControlPlane

K8S = Path(__file__).parents[2] / "k8s"
Manifest = dict[str, Any]


def copied_overlay(
    folder: Path,
    name: str,
    namespace: str,
    *,
    components: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    patches: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """overlays/`name` of a copy of k8s/ in `folder`, for `namespace`, with more in it."""
    overlay = Path(shutil.copytree(K8S, folder / "k8s")) / "overlays" / name
    file = overlay / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    kustomization["namespace"] = namespace
    added = [f"../../components/{component}" for component in components]
    kustomization["components"] = [*kustomization["components"], *added]
    kustomization["patches"] = list(patches)
    file.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    with (overlay / "settings.env").open("a", encoding="utf-8") as out:
        out.writelines(f"{key}={value}\n" for key, value in (settings or {}).items())
    return overlay


def built(plane: ControlPlane, overlay: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of it."""
    return list(yaml.safe_load_all(plane.kubectl("kustomize", str(overlay)).stdout))


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_spec(deployment: Manifest) -> Manifest:
    spec: Manifest = deployment["spec"]["template"]["spec"]
    return spec


def container(deployment: Manifest, name: str) -> Manifest:
    """A container of a Deployment, the native sidecars among them."""
    spec = pod_spec(deployment)
    return next(c for c in spec["initContainers"] + spec["containers"] if c["name"] == name)
