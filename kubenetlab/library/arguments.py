"""Arguments of commands from those of `Lab`'s methods."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from kubenetlab.errors import UsageError
from kubenetlab.library.argument_checks import Family, Protocol, check_connection
from kubenetlab.observe.targets.grammar import parse, with_port

Path = str | os.PathLike[str]
"""Path of a file or folder."""
Paths = Path | Iterable[Path]
"""One path or several."""


def paths_of(paths: Paths) -> Iterator[str]:
    """Yield one path or several as text."""
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        yield os.fspath(path)


def manifest_arguments(paths: Paths, text: str) -> list[str]:
    """Return the options for files, and for text on standard input."""
    return repeated("-f", (*paths_of(paths), *(("-",) if text else ())))


def up_arguments(
    manifests: Paths,
    text: str,
    *,
    cni: str | None = None,
    kube_proxy_mode: str | None = None,
    policy_engine: str | None = None,
    nodes: int | None = None,
    real_commands: bool = False,
    strict: bool = False,
    allow_undeclared: bool = False,
    wait: bool = True,
    timeout_s: float = 60.0,
) -> list[str]:
    """Return the options of `up`; see `Lab.up` for the arguments."""
    return [
        *options(
            ("--cni", cni),
            ("--proxy", kube_proxy_mode),
            ("--policy", policy_engine),
            ("--nodes", nodes),
        ),
        *switches(("--real-commands", real_commands)),
        *manifest_arguments(manifests, text),
        *apply_arguments(strict, allow_undeclared, wait, timeout_s),
    ]


def apply_arguments(
    strict: bool, allow_undeclared: bool, wait: bool, timeout_s: float
) -> list[str]:
    """Return the options that `up` and `apply` share. Raises UsageError for a timeout below 0."""
    if timeout_s < 0:
        raise UsageError(f"timeout_s: expected a number of seconds, found {timeout_s:g}")
    return [
        *switches(
            ("--strict", strict), ("--allow-undeclared", allow_undeclared), ("--no-wait", not wait)
        ),
        *options(("--timeout", f"{timeout_s:g}s")),
    ]


def ping_arguments(
    source: str,
    destination: str,
    port: int | None,
    protocol: Protocol,
    path: str | None,
    family: Family | None,
    namespace: str | None,
) -> list[str]:
    """Return the arguments of `ping` for one source and one destination.

    Raises UsageError for an invalid argument, and for one that contradicts the destination.
    """
    check_connection(destination, port, protocol, path, family, namespace)
    return [
        source,
        destination,
        # With a path the protocol is always TCP.
        *options((f"--{protocol.lower()}", port), ("--http", path), ("--namespace", namespace)),
        *_family_switches(family),
    ]


def probe_arguments(allow_unmodelled: Iterable[str], deadline_s: float) -> list[str]:
    """Return the options of `ping` for one destination, and for all of them."""
    return [
        *repeated("--allow-unmodelled", allow_unmodelled),
        *options(("--deadline", deadline_s)),
    ]


def explanation_arguments(
    source: str,
    destination: str,
    port: int | None,
    protocol: Protocol,
    family: Family | None,
    namespace: str | None,
) -> list[str]:
    """Return the arguments of `explain-policy`, which has no options for port and protocol.

    Raises UsageError for an invalid argument, and for one that contradicts the destination.
    """
    check_connection(destination, port, protocol, None, family, namespace)
    if port is not None:
        target = parse(destination, namespace)
        if target.port is None:
            destination = with_port(destination, port, protocol)
        elif target.protocol is None:
            destination = f"{destination}/{protocol}"
    return [
        source,
        destination,
        *options(("--namespace", namespace)),
        *_family_switches(family),
    ]


def check_arguments(
    tables: Paths,
    text: str,
    allow_unmodelled: Iterable[str],
    allow_undeclared: bool,
    deadline_s: float,
) -> list[str]:
    """Return the options of `check`; see `Lab.check` for the arguments."""
    return [
        *manifest_arguments(tables, text),
        *repeated("--allow-unmodelled", allow_unmodelled),
        *switches(("--allow-undeclared", allow_undeclared)),
        *options(("--deadline", deadline_s)),
    ]


def _family_switches(family: Family | None) -> list[str]:
    return switches(("-4", family == "IPv4"), ("-6", family == "IPv6"))


def options(*options: tuple[str, object]) -> list[str]:
    """Return options with their values; leave out those whose value is None."""
    given = ((name, value) for name, value in options if value is not None)
    return [word for name, value in given for word in (name, str(value))]


def switches(*switches: tuple[str, bool]) -> list[str]:
    """Return the options without a value that are on."""
    return [name for name, is_on in switches if is_on]


def repeated(option: str, values: Iterable[str]) -> list[str]:
    """Return an option once for each value."""
    return [word for value in values for word in (option, value)]
