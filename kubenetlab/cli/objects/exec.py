"""exec and shell: run a program inside a pod, a node or an external host."""

from __future__ import annotations

from typing import Annotated

import typer

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help=(
            "Pod (\\[ns/]name), node:name, ext:name, or a workload for one of its pods: "
            "deploy:\\[ns/]name, sts:, ds:, job:, rs:."
        ),
        show_default=False,
        autocompletion=candidates("locations"),
    ),
]

HostFilesOption = Annotated[
    bool,
    typer.Option(
        "--host-files",
        help=(
            "Use this machine's files (writable), your environment and your rights "
            "instead of the container's."
        ),
    ),
]


def exec_(
    target: Target,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", show_default=False)],
    namespace: Namespace = None,
    container: Annotated[
        str | None,
        typer.Option(
            "-c",
            "--container",
            metavar="NAME",
            help="Container whose environment is used. All containers of a pod share its network.",
        ),
    ] = None,
    stdin: Annotated[
        bool,
        typer.Option(
            "-i",
            "--stdin",
            help="Accepted as by kubectl; standard input is always passed on.",
        ),
    ] = False,
    tty: Annotated[
        bool,
        typer.Option(
            "-t",
            "--tty",
            help="Accepted as by kubectl; the terminal is always passed on.",
        ),
    ] = False,
    host_files: HostFilesOption = False,
    lab: Lab = None,
) -> None:
    """Run a program of this machine inside a pod, a node or an external host.

    The program has the target's network, hostname, processes, /etc/hosts and
    /etc/resolv.conf, and the container's environment. It sees this machine's
    files read-only, without home directories. /tmp, /run, /var and its home
    directory are its own and empty. Its working directory is /.
    Pass files through standard input and output, or use --host-files.

    Examples:
    kubenetlab exec client -- ip addr
    kubenetlab exec client -- tcpdump -c9 -w- > web.pcap
    """
    raise typer.Exit(
        _enter(target, command, namespace, lab, container=container, host_files=host_files)
    )


def shell(
    target: Target,
    namespace: Namespace = None,
    host_files: HostFilesOption = False,
    lab: Lab = None,
) -> None:
    """Open a shell inside a pod, a node or an external host.

    The shell sees the same files as a program of `exec`.

    Example: kubenetlab shell node:worker
    """
    import os
    import shutil

    from kubenetlab.kernel.processes.inheritance import CONTAINER_PATH

    path, user_shell = (None, os.environ.get("SHELL")) if host_files else (CONTAINER_PATH, None)
    program = shutil.which("bash", path=path) or user_shell or "/bin/sh"
    arguments = [program, "--norc"] if program.endswith("bash") else [program]
    raise typer.Exit(
        _enter(
            target, arguments, namespace, lab, {"PS1": f"[{target} \\w]\\$ "}, host_files=host_files
        )
    )


def _enter(
    target: str,
    command: list[str],
    namespace: str | None,
    lab: str | None,
    environment: dict[str, str] | None = None,
    container: str | None = None,
    *,
    host_files: bool = False,
) -> int:
    """Run a program inside a target and return its exit status."""
    import os

    from kubenetlab.errors import UsageError
    from kubenetlab.kernel.namespaces.enter import HostFiles, OwnFiles, run
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import select_lab
    from kubenetlab.observe.targets.resolution import read, resolve

    client = select_lab(lab)
    inspected = client.inspect()
    location = resolve(read(target, inspected, namespace), inspected)
    names = [
        entry["name"]
        for pod in inspected["pods"]
        if pod["sandbox"] == location.sandbox
        for entry in pod["containers"]
    ]
    if container is not None and container not in names:
        raise UsageError(
            f"{location.title} has no container {container}; it has: {', '.join(names) or 'none'}"
        )
    reply = client.enter(location.sandbox, container or "")
    body: JsonObject = reply.body
    variables = (
        dict(os.environ) if host_files else _variables_inside(body["hostname"], body["environment"])
    )
    return run(
        reply.fds[0],
        command,
        hosts=body["hosts"],
        resolv_conf=body["resolv_conf"],
        files=HostFiles(str(rundir.base_directory()))
        if host_files
        else OwnFiles(rundir.hidden_directories(), body["tree"]),
        environment={**variables, **(environment or {})},
    )


_TERMINAL_VARIABLES = (
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "COLUMNS",
    "LINES",
    "LANG",
    "LANGUAGE",
    "TZ",
)
"""Environment variables about terminal and language that programs inherit, besides LC_*."""


def _variables_inside(hostname: str, container_variables: dict[str, str]) -> dict[str, str]:
    """Return the environment of a program that does not use this machine's files.

    It has the container's variables, and those of the caller that describe the terminal.
    """
    import os

    from kubenetlab.kernel.processes.inheritance import CONTAINER_PATH

    terminal_variables = {
        name: value
        for name, value in os.environ.items()
        if name in _TERMINAL_VARIABLES or name.startswith("LC_")
    }
    defaults = {"PATH": CONTAINER_PATH, "HOME": "/root", "HOSTNAME": hostname}
    return {**defaults, **terminal_variables, **container_variables}
