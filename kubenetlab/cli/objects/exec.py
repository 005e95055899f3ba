"""exec and shell: run a program inside a pod, a node or an external host."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kubenetlab.cli.input.completion import candidates
from kubenetlab.cli.input.options import Lab, Namespace

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="\\[ns/]pod, node:name, ext:name, or a workload for one of its pods: deploy:\\[ns/]name, sts:, ds:, job:, rs:.",
        show_default=False,
        autocompletion=candidates("locations"),
    ),
]

HostFilesOption = Annotated[
    bool,
    typer.Option(
        "--host-files",
        help="With this machine's files as they are, to be written to, its variables, and your rights; no container's variables.",
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
            help="Whose environment; the containers of a pod share its namespaces.",
        ),
    ] = None,
    stdin: Annotated[
        bool,
        typer.Option(
            "-i", "--stdin", help="As kubectl's, and needless: a program reads this standard input."
        ),
    ] = False,
    tty: Annotated[
        bool,
        typer.Option(
            "-t", "--tty", help="As kubectl's, and needless: a program has this terminal."
        ),
    ] = False,
    host_files: HostFilesOption = False,
    lab: Lab = None,
) -> None:
    """Run a program of this machine inside a pod, a node or an external host. Example: kubenetlab exec client -- ip addr

    It has that place's network, hostname, processes, /etc/hosts and /etc/resolv.conf, and the container's variables. It sees this
    machine's files read-only, without home directories, and has an empty /tmp, /run, /var and home of its own; it begins in /.
    Pass files through standard input and output, or use --host-files. Example: kubenetlab exec client -- tcpdump -c9 -w- > web.pcap
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
    """Open a shell inside a pod, a node or an external host. Example: kubenetlab shell node:worker

    It sees files as a program of `exec` does.
    """
    import os
    import shutil

    from kubenetlab.kernel.processes.inheritance import CONTAINER_PATH

    path, chosen = (None, os.environ.get("SHELL")) if host_files else (CONTAINER_PATH, None)
    program = shutil.which("bash", path=path) or chosen or "/bin/sh"
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
    """Return the exit status of a program run inside."""
    import os

    from kubenetlab.errors import UsageError
    from kubenetlab.kernel.namespaces.enter import HostFiles, OwnFiles, run
    from kubenetlab.lab import rundir
    from kubenetlab.lab.client import choose
    from kubenetlab.observe.targets import read, resolve

    client = choose(lab)
    seen = client.inspect()
    found = resolve(read(target, seen, namespace), seen)
    names = [
        entry["name"]
        for pod in seen["pods"]
        if pod["sandbox"] == found.sandbox
        for entry in pod["containers"]
    ]
    if container is not None and container not in names:
        raise UsageError(
            f"container {container} is not in {found.title}; it has: {', '.join(names) or 'none'}"
        )
    reply = client.enter(found.sandbox, container or "")
    answer: dict[str, Any] = reply.body
    variables = (
        dict(os.environ)
        if host_files
        else _variables_inside(answer["hostname"], answer["environment"])
    )
    return run(
        reply.fds[0],
        command,
        hosts=answer["hosts"],
        resolv_conf=answer["resolv_conf"],
        files=HostFiles(str(rundir.base()))
        if host_files
        else OwnFiles(rundir.hidden_directories()),
        environment={**variables, **(environment or {})},
    )


_OF_TERMINAL = ("TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES", "LANG", "LANGUAGE", "TZ")
"""Variables about the caller's terminal and language, which programs inside get; those that begin with LC_ as well."""


def _variables_inside(hostname: str, of_container: dict[str, str]) -> dict[str, str]:
    """Return the variables of a program that sees files of its own: the container's, and few of the caller's."""
    import os

    from kubenetlab.kernel.processes.inheritance import CONTAINER_PATH

    of_terminal = {
        name: value
        for name, value in os.environ.items()
        if name in _OF_TERMINAL or name.startswith("LC_")
    }
    basic = {"PATH": CONTAINER_PATH, "HOME": "/root", "HOSTNAME": hostname}
    return {**basic, **of_terminal, **of_container}
