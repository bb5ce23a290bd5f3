"""What a processor can do that compiled code may rely on: compared before such code is loaded."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

# What a compiler told to use this very processor may use of an x86; of others all is kept.
_X86 = re.compile(r"^(sse|ssse3|avx|amx|fma|f16c|bmi|abm|movbe|popcnt|adx|gfni|vaes|vpclmulqdq)")
_CPUINFO = Path("/proc/cpuinfo")


def features() -> dict[str, Any]:
    """`{"machine": "x86_64", "flags": ["avx2", …]}`; no flags where the system tells none."""
    flags: set[str] = set()
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        flags = {flag for flag in flags if _X86.match(flag)}
    return {"machine": machine, "flags": sorted(flags)}


def lacking(wanted: dict[str, Any]) -> list[str]:
    """What `wanted`, another machine's features, has that this one has not."""
    have = features()
    if have["machine"] != wanted["machine"]:
        return [str(wanted["machine"])]
    return sorted(set(wanted["flags"]) - set(have["flags"]))
