"""A ConfigMap as fleet: pins in it, reports in the conditions of the pods that follow it.

Pins are published by `terraform apply` where a folder of Terraform is named, else by server-side
apply. A break-glass rollback always patches the ConfigMap itself. Commands need the rights of
the user's kubeconfig; the agents' side is `pod`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import structlog

from modelswitch.effects import effect
from modelswitch.errors import (
    FleetUnreachable,
    ModelSwitchError,
    NotFound,
    PinsError,
    PinsTooNew,
    UsageError,
)
from modelswitch.files import write_whole
from modelswitch.fleet import events
from modelswitch.fleet.apiserver import is_conflict, open_client, reached
from modelswitch.fleet.condition import DEPLOYMENT_LABEL, PINS_KEY
from modelswitch.fleet.protocol import News, Published, check_size, stays
from modelswitch.fleet.roster import MISSING, Objects, reports
from modelswitch.fleet.terraform import Terraform
from modelswitch.pins import Pins, parse
from modelswitch.reports import Report
from modelswitch.settings import Settings

if TYPE_CHECKING:
    from lightkube import Client
    from lightkube.resources.core_v1 import ConfigMap

log = structlog.get_logger("modelswitch.fleet")

FIELD_MANAGER = "modelswitch"
_TOGETHER_S = 0.05  # events that come within it are looked at as one
_POLL_S = 0.5
_OBJECTS_EVERY_S = 2.0
_STREAM_S = 60
_LOCK_S = 400.0  # longer than Terraform gets
_NEED_S = 3.0  # what an emergency waits for a command that may hang
_LOOK_S = 0.05
_TRIES = 5  # to write over what others write in the same moment


class KubernetesFleet:
    """The fleet of one deployment in one namespace.

    `allow_other_changes`: Terraform's plan may touch more than the pins.
    """

    def __init__(self, settings: Settings, *, client: Client | None = None) -> None:
        self.settings = settings
        self.allow_other_changes = False
        self.config_map = settings.config_map
        self.pins_file = settings.fleet.pins_file
        self.labels: dict[str, Any] = {DEPLOYMENT_LABEL: settings.deployment}
        if client is not None:
            self.__dict__["client"] = client

    @cached_property
    def client(self) -> Client:
        return open_client(self.settings.fleet, field_manager=FIELD_MANAGER)

    @property
    def namespace(self) -> str:
        return str(self.client.namespace)

    # Publishing

    def publish(
        self,
        pins: Pins,
        *,
        correlation_id: str | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> Pins:
        check_size(pins)
        with contextlib.ExitStack() as working_tree:
            with self._needless(pins):
                working_tree.enter_context(
                    self._locked(_NEED_S if pins.is_break_glass else _LOCK_S)
                )
            for is_last in (*[False] * (_TRIES - 1), True):
                standing, version = self._standing()
                if standing is not None and stays(standing, pins):
                    return standing
                terraform = None if pins.is_break_glass else self._terraform()
                with self._needless(pins):
                    self._write_file(pins)
                try:
                    with effect("fleet.publish", generation=pins.generation):
                        if terraform is not None:
                            terraform.apply(pins, standing, anything=self.allow_other_changes)
                        else:
                            self._apply(pins, version, correlation_id, note)
                    break
                except FleetUnreachable as error:
                    # From another working tree, or a mere annotation: what stands now decides.
                    if is_last or not is_conflict(error):
                        raise
            found = self.published()
        if found is not None and found.pins.generation > pins.generation:
            return found.pins  # somebody else's, a moment later
        if found is None or found.pins != pins:
            raise PinsError(
                f"the ConfigMap {self.config_map} does not hold the pins of generation "
                f"{pins.generation} that were just published into it",
                next="who else writes it? kubectl get configmap "
                f"{self.config_map} -n {self.namespace} -o yaml --show-managed-fields",
            )
        return pins

    def write(self, pins: Pins) -> Path:
        """Write pins into the working tree only, for a pull request; where they stand now."""
        if self.pins_file is None:
            raise UsageError(
                "a plan is written into the working tree, and [fleet] pins_file is not set",
                next="name the file that Terraform reads: [fleet] pins_file in modelswitch.toml",
            )
        check_size(pins)
        with self._locked():
            self._write_file(pins)
        return self.pins_file

    def published(self) -> Published | None:
        found = self._config_map(self.config_map)
        if found is None:
            return None
        pins = self._pins(found)
        if not pins.is_break_glass:
            return Published(pins)
        said = self._announcement()
        if said.get("generation") != pins.generation:
            return Published(pins)
        return Published(pins, said.get("correlation_id"), said.get("note"))

    def _standing(self) -> tuple[Pins | None, str | None]:
        """What stands, if it can be read, and the resourceVersion it was read at."""
        found = self._config_map(self.config_map)
        if found is None:
            return None, None
        version = found.metadata.resourceVersion if found.metadata else None
        try:
            return self._pins(found), version
        except PinsTooNew:
            raise
        except PinsError:  # rubbish is written over
            return None, version

    def _pins(self, config_map: ConfigMap) -> Pins:
        text = (config_map.data or {}).get(PINS_KEY)
        if text is None:
            raise PinsError(f"the ConfigMap {self.config_map} has no key {PINS_KEY}")
        return parse(text, source=f"the ConfigMap {self.config_map}")

    def _terraform(self) -> Terraform | None:
        folder = self.settings.fleet.terraform_dir
        if folder is None:
            return None
        if self.pins_file is None:
            raise UsageError(
                "[fleet] terraform_dir is set, but not the file of pins that Terraform reads",
                next="set [fleet] pins_file in modelswitch.toml",
            )
        return Terraform(folder, namespace=self.namespace, config_map=self.config_map)

    def _apply(
        self,
        pins: Pins,
        version: str | None,
        correlation_id: str | None,
        note: Mapping[str, Any] | None,
    ) -> None:
        """Server-side apply, over what was read: somebody else's write meanwhile is a conflict."""
        if note is not None:
            announcement = {
                "generation": pins.generation,
                "correlation_id": correlation_id,
                "note": note,
            }
            text = json.dumps(announcement, sort_keys=True)
            self._apply_map(self._announcement_map, {"announcement.json": text}, None)
        self._apply_map(self.config_map, {PINS_KEY: pins.text}, version)

    def _apply_map(self, name: str, data: dict[str, str], version: str | None) -> None:
        from lightkube.models.meta_v1 import ObjectMeta
        from lightkube.resources.core_v1 import ConfigMap

        config_map = ConfigMap(
            metadata=ObjectMeta(
                name=name,
                labels={**self.labels, "app.kubernetes.io/part-of": "modelswitch"},
                resourceVersion=version,
            ),
            data=data,
        )
        with reached(f"the ConfigMap {name} cannot be written"):
            self.client.apply(config_map, force=True)

    @property
    def _announcement_map(self) -> str:
        return f"{self.config_map}-announcement"

    def _announcement(self) -> dict[str, Any]:
        try:
            found = self._config_map(self._announcement_map)
            data = (found.data if found else None) or {}
            said = json.loads(data.get("announcement.json", ""))
        except (ModelSwitchError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def _config_map(self, name: str) -> ConfigMap | None:
        from lightkube import ApiError
        from lightkube.resources.core_v1 import ConfigMap

        with reached(f"the ConfigMap {name} cannot be read"):
            try:
                return self.client.get(ConfigMap, name)
            except ApiError as error:
                if error.status.code == 404:
                    return None
                raise

    def _write_file(self, pins: Pins) -> None:
        if self.pins_file is None:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                if self.pins_file.read_text(encoding="utf-8") == pins.text:
                    return
            write_whole(self.pins_file, pins.text)
        except (OSError, UnicodeDecodeError) as error:
            raise FleetUnreachable(
                f"{self.pins_file} cannot be written: {error}", next="see [fleet] pins_file"
            ) from error

    @contextlib.contextmanager
    def _needless(self, pins: Pins) -> Iterator[None]:
        """Around the working tree's part: who breaks the glass does not need it."""
        try:
            yield
        except FleetUnreachable as error:
            if not pins.is_break_glass:
                raise
            log.warning("fleet.working_tree_left", why=error.message)

    @contextlib.contextmanager
    def _locked(self, wait_s: float = _LOCK_S) -> Iterator[None]:
        """One command at a time writes the working tree; without one, the API server decides."""
        if self.pins_file is None:
            yield
            return
        try:
            self.pins_file.parent.mkdir(parents=True, exist_ok=True)
            lock = self.pins_file.with_name(f".{self.pins_file.name}.lock").open("w")
        except OSError as error:
            raise FleetUnreachable(
                f"{self.pins_file} cannot be written: {error.strerror or error}",
                next="see [fleet] pins_file",
            ) from error
        with lock:
            deadline = time.monotonic() + wait_s
            while not _is_locked_now(lock):
                if time.monotonic() > deadline:
                    raise FleetUnreachable(
                        f"another command has been writing {self.pins_file} for {wait_s:g} s",
                        next="is it stopped, or waiting for Terraform? see who holds "
                        f"{lock.name}: lsof {lock.name}",
                    )
                time.sleep(_LOOK_S)
            yield

    # Reports

    def reports(self) -> tuple[Report, ...]:
        pins = self._published_pins()
        return reports(self._objects(), pins, datetime.now(UTC))

    def watch(self, timeout_s: float) -> Iterator[tuple[Report, ...]]:
        deadline = time.monotonic() + timeout_s
        stop = threading.Event()
        changed: queue.SimpleQueue[Any] = queue.SimpleQueue()
        objects = self._objects()
        pins = self._published_pins()
        looked = time.monotonic()
        thread = threading.Thread(
            target=self._stream, args=(changed, stop), daemon=True, name="pods"
        )
        thread.start()
        try:
            while True:
                yield reports(objects, pins, datetime.now(UTC))
                if time.monotonic() >= deadline:
                    return
                for kind, pod in _together(changed):
                    if kind == "DELETED":
                        objects.pods.pop(pod.metadata.name, None)
                    else:
                        objects.pods[pod.metadata.name] = pod
                if time.monotonic() - looked > _OBJECTS_EVERY_S:
                    looked = time.monotonic()
                    # The API server may be away for a while: what was last seen stands.
                    with contextlib.suppress(FleetUnreachable):
                        objects, pins = self._objects(), self._published_pins()
        finally:
            stop.set()

    def how_to_start(self) -> str:
        there = f"-n {self.namespace}"
        scale = f"kubectl scale deployment NAME {there} --replicas=1"
        return f"kubectl get pods {there}; if there is none: {scale}"

    def how_to_forget(self, server: str) -> str:
        if server.endswith(MISSING):
            return f"wait for its pods, or scale it down: kubectl get pods -n {self.namespace}"
        return f"kubectl delete pod {server} -n {self.namespace}"

    def forget(self, server: str) -> bool:
        raise UsageError(
            f"{server} is a pod: the roster is what Kubernetes says it is",
            next=self.how_to_forget(server),
        )

    def announce(self, news: News) -> None:
        """An Event on the pool's Deployment."""
        with reached("the Deployment's Event cannot be written"):
            events.post(self.client, self.labels, news)

    def logs(self, pod: str, container: str, *, lines: int) -> list[str]:
        """The last lines that a container printed; raises NotFound, FleetUnreachable."""
        from lightkube import ApiError

        where = f"the log of {pod}/{container}"
        with reached(f"{where} cannot be read"):
            try:
                told = self.client.log(pod, container=container, tail_lines=lines, newlines=False)
                return list(told)
            except ApiError as error:
                if error.status.code == 404:
                    raise NotFound(
                        f"{where} is not there: {error.status.message}",
                        next=f"kubectl get pods -n {self.namespace}",
                    ) from error
                raise

    def _published_pins(self) -> Pins | None:
        try:
            found = self.published()
        except PinsError:
            return None
        return found.pins if found else None

    def _objects(self) -> Objects:
        from lightkube.resources.apps_v1 import Deployment, ReplicaSet
        from lightkube.resources.policy_v1 import PodDisruptionBudget

        from modelswitch.fleet.pods import Pod

        with reached("the pods cannot be listed"):
            client, labels = self.client, self.labels
            return Objects(
                deployments=tuple(client.list(Deployment, labels=labels)),
                replica_sets=tuple(client.list(ReplicaSet, labels=labels)),
                budgets=tuple(client.list(PodDisruptionBudget)),
                pods={pod.metadata.name: pod for pod in client.list(Pod, labels=labels)},
            )

    def _stream(self, changed: queue.SimpleQueue[Any], stop: threading.Event) -> None:
        """Pods as they change, until told to stop. What it misses the next list shows."""
        from modelswitch.fleet.pods import Pod

        while not stop.is_set():
            try:
                with reached("the pods cannot be watched"):
                    for event in self.client.watch(
                        Pod, labels=self.labels, server_timeout=_STREAM_S
                    ):
                        changed.put(event)
                        if stop.is_set():
                            return
            except FleetUnreachable:
                stop.wait(_POLL_S)


def _is_locked_now(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _together(changed: queue.SimpleQueue[Any]) -> list[Any]:
    """What has changed: waits for the first, and a little for what comes with it."""
    found = []
    patience = _POLL_S
    while True:
        try:
            found.append(changed.get(timeout=patience))
        except queue.Empty:
            return found
        patience = _TOGETHER_S
