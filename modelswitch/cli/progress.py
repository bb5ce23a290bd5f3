"""What goes on, on one live line of a terminal; elsewhere a line for each long step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any, TextIO

from modelswitch.cli.output import few

_EVERY_S = 0.1
_PATIENCE_S = 10.0  # of who reads a log: a wait is told after it, then each time twice as long
_NAMED = 5  # of the servers that are waited for

# Steps that may take seconds, in people's words.
_WORDS = {
    "registry.download": "fetching its files from MLflow",
    "registry.upload": "uploading its files to MLflow",
    "archive.golden": "asking the golden request",
    "archive.convert": "converting it for its engine",
    "archive.prove": "proving what was built",
    "archive.write": "writing the archive",
    "store.put": "storing the archive",
    "store.fetch": "fetching the archive",
    "marks.write": "writing MLflow's marks",
    "terraform.plan": "planning with Terraform",
    "terraform.apply": "applying with Terraform",
}
# What servers are waited for after a row of that kind.
_DOING = {"prepared": "loading on", "committed": "proving on", "settled": "proving on"}
_LONG = {
    "archive.convert",
    "engines.try",
    "registry.download",
    "registry.upload",
    "archive.golden",
    "stack.start",
    "stack.stop",
}


class Progress:
    """A sink for `effects.watching`.

    `waited_s`: how long the last wait for servers took. `on_up` is told the addresses of a
    stack that stays in the foreground.
    """

    def __init__(self, out: TextIO, subject: str = "", *, plain: bool = True) -> None:
        self.subject = subject
        self.waited_s: float | None = None
        self.on_up: Callable[[Any], None] | None = None
        self._out = out
        self._plain = plain
        self._live = out.isatty()
        self._shown_at = 0.0
        self._said = ""
        self._dirty = False
        self._doing = "waiting for"
        self._told_s = 0.0  # when the wait under way was last told

    def step(self, name: str, facts: dict[str, Any]) -> None:
        if name == "ledger.append":
            self._doing = _DOING.get(facts.get("kind", ""), self._doing)
        if name == "fleet.wait":
            self.waited_s = facts.get("elapsed_s")
        if name == "stack.up" and self.on_up is not None:
            self.clear()
            self.on_up(facts["addresses"])
        text = _text(name, facts, self._doing)
        if text is None:
            return
        line = f"{self.subject}: {text}" if self.subject else text
        if self._live:
            self._draw(line, anew=name != self._said)
            self._said = name
        elif self._plain and (name in _LONG or self._is_long(name, facts)) and line != self._said:
            print(line, file=self._out, flush=True)
            self._said = line

    def _is_long(self, name: str, facts: dict[str, Any]) -> bool:
        """Whether this wait for servers should be told of by now."""
        if name != "fleet.wait":
            return False
        waited_s = facts.get("elapsed_s", 0.0)
        if waited_s < self._told_s:  # another wait
            self._told_s = 0.0
        if waited_s < max(_PATIENCE_S, 2 * self._told_s):
            return False
        self._told_s = waited_s
        return True

    def clear(self) -> None:
        if self._dirty:
            self._out.write("\r\033[K")
            self._out.flush()
            self._dirty = False

    def _draw(self, line: str, *, anew: bool) -> None:
        now = time.monotonic()
        if not anew and now - self._shown_at < _EVERY_S:
            return
        width = shutil.get_terminal_size().columns - 1
        self._out.write("\r\033[K" + line[:width])
        self._out.flush()
        self._shown_at = now
        self._dirty = True


def _text(name: str, facts: dict[str, Any], doing: str) -> str | None:
    if name == "fleet.wait":
        servers: dict[str, str] = facts.get("servers", {})
        waiting = [s for s, state in servers.items() if state != "proven"]
        if not waiting:
            return None
        return f"{doing} {few(waiting, _NAMED)} ({facts.get('elapsed_s', 0.0):.1f} s)"
    if name in ("stack.start", "stack.stop"):
        verb = "starting" if name == "stack.start" else "stopping"
        return f"{verb} {facts.get('part', '')}"
    if name == "stack.wait":
        part, seconds = facts.get("part"), facts.get("seconds")
        return f"waiting for {part} ({seconds} s)" if part else str(facts.get("why", ""))
    if name == "bench.warm":
        return f"warming up ({facts['seconds']} s)"
    if name == "bench.point":
        return f"{facts['clients']} clients ({facts['place']} of {facts['points']})"
    if name == "engines.try":
        return f"trying {facts.get('engine', '')}"
    words = _WORDS.get(name)
    done, total = facts.get("done_bytes"), facts.get("total_bytes")
    if words and done is not None and total:
        return f"{words} ({100 * done // total} %)"
    return words
