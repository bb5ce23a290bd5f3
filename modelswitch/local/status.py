"""What `status` tells: each process of the stack, since when, where, and whether it is well."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from modelswitch.local.addresses import Addresses


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """`pid` and `since` are None when it does not run; `why_not` is None when it is healthy."""

    name: str
    pid: int | None
    since: datetime | None
    address: str
    log: Path
    why_not: str | None

    @property
    def is_healthy(self) -> bool:
        return self.why_not is None


@dataclass(frozen=True, slots=True)
class StackStatus:
    """`members` is empty when the stack was not started, or was stopped."""

    members: tuple[MemberStatus, ...]
    addresses: Addresses

    @property
    def is_up(self) -> bool:
        return bool(self.members)

    @property
    def is_healthy(self) -> bool:
        return self.is_up and all(member.is_healthy for member in self.members)
