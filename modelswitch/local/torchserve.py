"""One TorchServe: the JVM itself, without the wrapper that leaves it running."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from modelswitch.errors import StackError
from modelswitch.local import jvm, ports, worker
from modelswitch.local.folders import Folders, short, shortened
from modelswitch.local.part import Part, clean_environment, why_no_answer

CONFIG = Path(__file__).with_name("config.properties")
LOG_CONFIG = Path(__file__).with_name("log4j2.xml")


def torchserve(folders: Folders, port_base: int, place: int) -> Part:
    """The server of that place: its own ports, model store, logs and temporary folder."""
    name = ports.server_name(place)
    own = ports.server_ports(port_base, place)
    home = folders.server(name)
    store = folders.model_store(name)
    temporary = folders.temporary(name)
    config = home / "config.properties"
    python = home / "python"

    def prepare() -> None:
        # What a killed server has extracted stays behind: it may be gigabytes
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in (store, temporary, folders.server_logs(name)):
            folder.mkdir(parents=True, exist_ok=True)
        shortened(temporary)
        config.write_text(CONFIG.read_text(encoding="utf-8") + _own_lines(own, store))
        python.write_text(worker.launcher(sys.executable), encoding="utf-8")
        python.chmod(0o755)

    short_temporary = str(short(temporary))
    return Part(
        name=f"torchserve-{name}",
        argv=jvm.command(
            java=_java(),
            packages=_packages(),
            python=str(python),
            config=config,
            log_config=LOG_CONFIG,
            store=store,
            temporary=short_temporary,
            vm_arguments=jvm.vm_arguments(CONFIG),
        ),
        env={
            **clean_environment(),
            "JAVA_HOME": str(_java().parent.parent),
            "TMPDIR": short_temporary,
            "TEMP": short_temporary,
            "LOG_LOCATION": str(folders.server_logs(name)),
            "METRICS_LOCATION": str(folders.server_logs(name)),
        },
        cwd=home,
        log=folders.logs / f"torchserve-{name}.log",
        address=own.inference_url,
        why_not=lambda _: why_no_answer(f"{own.inference_url}/ping"),
        ports=own.listening,
        prepare=prepare,
    )


def _own_lines(own: ports.ServerPorts, store: Path) -> str:
    host = ports.LOOPBACK
    lines = {
        "inference_address": own.inference_url,
        "management_address": own.management_url,
        "metrics_address": f"http://{host}:{own.metrics}",
        "grpc_inference_address": host,
        "grpc_inference_port": own.grpc_inference,
        "grpc_management_address": host,
        "grpc_management_port": own.grpc_management,
        "initial_worker_port": own.worker,
        "model_store": store,
    }
    return "\n# Of this server\n" + "".join(f"{key}={value}\n" for key, value in lines.items())


def _packages() -> Path:
    found = jvm.find_packages()
    if found is None:
        raise StackError(
            "TorchServe is not installed here",
            next="install the local stack: pip install 'modelswitch[local]'",
        )
    return found


def _java() -> Path:
    """The user's JAVA_HOME if it is set, else the runtime that came with the local extra."""
    java = jvm.java()
    if not java.exists():
        raise StackError(
            f"there is no Java at {java}",
            next="unset JAVA_HOME to use the one that came with modelswitch[local]",
        )
    return java
