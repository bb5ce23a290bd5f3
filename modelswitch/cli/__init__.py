"""The command line: parse, call the facade, print. No logic.

Results go to stdout, talk to stderr; `--json` puts one envelope on stdout, for errors too. It may
read settings, call `switch`, the agent and the local stack, and ask on a terminal. It never
decides what a move does. Everything heavy is imported inside a verb, so that `--help` answers at
once.
"""

from __future__ import annotations


def main() -> int:
    """The program; returns its exit code."""
    from modelswitch.cli.main import run

    return run()
