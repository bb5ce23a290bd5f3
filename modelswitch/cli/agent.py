"""The verbs of the agent: run it beside its server, strike one off the roster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from modelswitch.cli.output import Result
from modelswitch.cli.session import Session
from modelswitch.cli.verbs import Verbs, finish
from modelswitch.errors import NotFound

if TYPE_CHECKING:
    from modelswitch.agent.agent import Agent
    from modelswitch.fleet.protocol import Feed
    from modelswitch.settings import Settings


@click.group("agent", cls=Verbs, panel="Stack", invoke_without_command=True)
@click.pass_context
def agent(ctx: click.Context) -> None:
    """Run the agent of [server]: it follows the pins and reports, until SIGTERM or Ctrl-C."""
    if ctx.invoked_subcommand is not None:
        return
    import asyncio

    session = ctx.find_object(Session) or Session()
    session.command = "agent"
    session.configure_logs("INFO")
    asyncio.run(_run(session.settings))
    finish(session, Result({}))


@agent.command("forget")
@click.argument("name")
@click.pass_obj
def forget(session: Session, name: str) -> Result:
    """Strike a server off the roster; it is back on it when its agent reports again."""
    known = {report.server for report in session.switch.reports()}
    if name not in known:
        raise NotFound(
            f"no server {name!r} is on the roster",
            next=f"known: {', '.join(sorted(known)) or 'none'}",
        )
    if session.dry_run:
        return Result({"changes": True}, [f"would strike {name} off the roster"], exit=3)
    session.switch.forget_server(name)
    return Result({"forgotten": name}, [f"{name} is off the roster"])


def make_agent(settings: Settings) -> Agent:
    """The agent that [server] describes; what is unset there is the local stack's."""
    from modelswitch.agent.agent import Agent
    from modelswitch.agent.environment import capacity, environment
    from modelswitch.agent.slots import Slots
    from modelswitch.errors import SettingsError
    from modelswitch.local.addresses import addresses
    from modelswitch.local.folders import Folders
    from modelswitch.servers.torchserve import TorchServe
    from modelswitch.store import FsspecStore

    own = settings.server
    folders = Folders(settings.state_dir)
    local = {server.name: server for server in addresses(settings).servers}.get(own.name)
    inference = own.inference_url or (local.inference_url if local else None)
    management = own.management_url or (local.management_url if local else None)
    if inference is None or management is None:
        raise SettingsError(
            f"[server] name is {own.name!r}, which is no server of the local stack, and its "
            "addresses are not set",
            next="set [server] inference_url and management_url",
        )
    server = TorchServe(inference, management, log_dir=own.log_dir or folders.server_logs(own.name))
    slots = Slots(
        server,
        FsspecStore(settings.store),
        own.model_store or folders.model_store(own.name),
        settings.timeouts,
        cache_bytes=own.cache_bytes,
    )
    return Agent(
        name=own.name,
        deployment=settings.deployment,
        fleet=_feed(settings),
        slots=slots,
        state_dir=settings.state_dir / "agents" / own.name,
        pool=own.pool,
        environment=environment(own.environment_file),
        capacity=capacity(),
        inference_url=inference,
        # Whoever asks after its health wants it to end in order; the local stack wants it to end.
        drain_s=settings.timeouts.unload_s if own.health_port is not None else 0.0,
    )


def _feed(settings: Settings) -> Feed:
    """In a pod, [server] name is the pod's."""
    if settings.fleet.kind == "folder":
        from modelswitch.fleet import FolderFleet

        return FolderFleet(settings.fleet_path)
    from modelswitch.fleet.pod import PodFleet
    from modelswitch.fleet.pod_api import PodApi

    return PodFleet(
        PodApi(settings.fleet),
        config_map=settings.config_map,
        mount=settings.fleet.mount,
        pod=settings.server.name,
    )


async def _run(settings: Settings) -> None:
    import asyncio
    import contextlib
    import signal

    agent = make_agent(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    async with contextlib.AsyncExitStack() as doors:
        if (port := settings.server.health_port) is not None:
            from modelswitch.agent.health import answering

            await doors.enter_async_context(answering(agent, settings.server.health_host, port))
        await agent.run()


VERBS = (agent,)
