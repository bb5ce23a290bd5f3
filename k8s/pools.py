"""Write what Kustomize needs for each pool of pools.toml: python k8s/pools.py [FOLDER] [--check].

FOLDER is an overlay (overlays/production beside this file); its folder `pools` is written anew,
a pool that is no longer listed goes. With --check nothing is written: exit 1 and the names of
the files that differ.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

HEAD = """\
# Written by k8s/pools.py from pools.toml: change it there.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
"""
ONE_POOL = """\
resources:
  - ../../../../base/pool
components:
{components}nameSuffix: -{name}
labels:
  - pairs:
      modelswitch.dev/pool: {name}
    includeSelectors: true
    includeTemplates: true
patches:
{patches}"""
REPLICAS = """\
  - target: {{ kind: HorizontalPodAutoscaler }}
    patch: |
      - {{ op: replace, path: /spec/minReplicas, value: {replicas} }}
      - {{ op: replace, path: /spec/maxReplicas, value: {max_replicas} }}
"""
GPUS = """\
  - target: {{ kind: Deployment }}
    patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata:
        name: any
      spec:
        template:
          spec:
            containers:
              - name: torchserve
                resources:
                  limits: {{ nvidia.com/gpu: "{gpus}" }}
"""


class BadList(Exception):
    """What is wrong in pools.toml."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One entry of the list."""

    name: str
    replicas: int
    max_replicas: int
    gpus: int

    def __post_init__(self) -> None:
        # Its name is a label, and the end of a Deployment's name, whose pods add 17 letters
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", self.name):
            raise BadList(f"{self.name!r}: 1 to 32 lower-case letters, digits and hyphens")
        if any(type(n) is not int for n in (self.replicas, self.max_replicas, self.gpus)):
            raise BadList(f"{self.name}: replicas, max_replicas and gpus are whole numbers")
        if not 1 <= self.replicas <= self.max_replicas or self.gpus < 0:
            raise BadList(f"{self.name}: 1 <= replicas <= max_replicas, and gpus >= 0")

    @property
    def text(self) -> str:
        names = ["hpa", "gpu"] if self.gpus else ["hpa"]
        patches = REPLICAS.format(replicas=self.replicas, max_replicas=self.max_replicas)
        if self.gpus > 1:  # the component says one
            patches += GPUS.format(gpus=self.gpus)
        components = "".join(f"  - ../../../../components/{name}\n" for name in names)
        return HEAD + ONE_POOL.format(name=self.name, components=components, patches=patches)


def read(file: Path) -> list[Pool]:
    """The pools of a list; raises BadList."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadList(str(error)) from error
    if not tables:
        raise BadList("no pool in it")
    return [_pool(name, table) for name, table in tables.items()]


def _pool(name: str, table: object) -> Pool:
    keys = {field.name for field in fields(Pool)} - {"name"}
    if not isinstance(table, dict) or table.keys() != keys:
        raise BadList(f"{name}: a pool is a table [{name}] with {', '.join(sorted(keys))}")
    return Pool(name, **table)


def texts(pools: list[Pool]) -> dict[str, str]:
    """Every file of the folder `pools`, by its path in it."""
    listed = "".join(f"  - {pool.name}\n" for pool in pools)
    files = {f"{pool.name}/kustomization.yaml": pool.text for pool in pools}
    return {"kustomization.yaml": f"{HEAD}resources:\n{listed}", **files}


def differing(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Paths that are missing in `folder`, have another text, or have no business there."""
    found = {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }
    return sorted(p for p in wanted.keys() | found.keys() if wanted.get(p) != found.get(p))


def main() -> int:
    asked = argparse.ArgumentParser(description="Write the pools of pools.toml for Kustomize.")
    default = Path(__file__).parent / "overlays" / "production"
    asked.add_argument("overlay", nargs="?", type=Path, default=default)
    asked.add_argument("--check", action="store_true", help="write nothing, say what differs")
    given = asked.parse_args()
    try:
        wanted = texts(read(given.overlay / "pools.toml"))
    except BadList as error:
        print(f"{given.overlay / 'pools.toml'}: {error}", file=sys.stderr)
        return 2
    folder = given.overlay / "pools"
    differ = differing(folder, wanted)
    if given.check:
        print("".join(f"{folder / path} is not what pools.toml says\n" for path in differ), end="")
        return 1 if differ else 0
    if differ:
        shutil.rmtree(folder, ignore_errors=True)
    for path, text in wanted.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
