"""The verb that prints a shell's completion script."""

from __future__ import annotations

import rich_click as click

from modelswitch.cli.output import Result
from modelswitch.cli.verbs import Verb


@click.command("completion", cls=Verb, panel="Looking")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> Result:
    """The completion script of a shell, which knows verbs, flags and models' names.

    bash: eval "$(modelswitch completion bash)" in ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 click knows these three
    script = made(root.command, {}, str(root.info_name), "_MODELSWITCH_COMPLETE").source()
    return Result({"shell": shell, "script": script}, [script])


VERBS = (completion,)
