"""Built-in programs: what containers run instead of their images' programs.

A program is a module; the image's name and the arguments select it. All programs are pure: the
runtime opens the sockets and calls the program's functions. A module defines:

- `configure(container, ports)`: returns the `Setup`. With `READS_ARGUMENTS` it depends on command
  and args, with `TAKES_PORTS` on `ports`.
- `http(request, context)`, `datagram(data, peer, context)`: answer a request or a datagram.
- `main(context)`: does the work of a program that ends by itself; returns the exit status.
- `runs_until_stopped(container)`: returns True when the image's program is known never to end.
- `options_of(container)`: returns the program's title and the flags that are modelled.
- `initial_state()`: returns the state of a program that has one, kept as `context.memory`.
- `on_options(context)`: receives the options, at the start and after every change.
- `on_event(event, context)`: receives an event of the lab (kube_proxy_events).

All but `configure` are optional.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Final

from msgspec import Struct

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ListenPort, ProgramOptions

DEFAULT: Final = "default"
DONE: Final = "done"
COMMAND: Final = "command"
CNI_AGENT: Final = "cni_agent"
DELAY_SHUTDOWN: Final = "delay_shutdown_s"
"""Option of a program: seconds for which it keeps serving after SIGTERM."""

_PROGRAM_OF_IMAGE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("agnhost",), "agnhost"),
    **dict.fromkeys(("http-echo",), "http_echo"),
    **dict.fromkeys(("nginx", "nginx-slim", "httpd", "apache"), "web"),
    **dict.fromkeys(("coredns",), "coredns"),
    **dict.fromkeys(("kube-proxy",), "kube_proxy"),
    **dict.fromkeys(("flannel", "calico/node", "weave-kube", "cilium", "kube-router"), "cni_agent"),
    **dict.fromkeys(
        (
            "busybox",
            "busyboxplus",
            "curl",
            "alpine",
            "debian",
            "ubuntu",
            "pause",
            "dnsutils",
            "jessie-dnsutils",
            "netshoot",
            "wget",
            "bash",
        ),
        "idle",
    ),
}
"""Last part of an image's name, or its last two parts → program; others get the default server."""


class Ports(Struct, frozen=True):
    """Ports on which a container's image listens, beside those that the container declares."""

    assumed: tuple[ListenPort, ...] = ()
    """Numeric target ports of Services, for a container that declares no port."""
    stated: tuple[ListenPort, ...] | None = None
    """Ports of the annotation `kubenetlab.dev/listen`; they replace all others."""

    def of(self, container: Container) -> tuple[ListenPort, ...]:
        """Return the ports on which a server for the container's image listens."""
        return self.stated if self.stated is not None else declared_ports(container) or self.assumed


class Setup(Struct, frozen=True):
    """The program of one container, its options (plain data), and the ports on which it listens."""

    program: str
    options: ProgramOptions = {}
    listeners: tuple[ListenPort, ...] = ()


def setup(container: Container, ports: Ports = Ports()) -> Setup:
    """Return the setup of a container."""
    configured: Setup = load(program_of_image(container.image)).configure(container, ports)
    return configured


def declared_ports(container: Container) -> tuple[ListenPort, ...]:
    """Return the ports that a container declares, each once."""
    return tuple(
        dict.fromkeys(ListenPort(port.protocol, port.container_port) for port in container.ports)
    )


def program_of_image(image: str) -> str:
    """Return the name of the built-in program for an image."""
    name = image_name(image)
    owner = image.rpartition("/")[0].rpartition("/")[2]
    return _PROGRAM_OF_IMAGE.get(f"{owner}/{name}", _PROGRAM_OF_IMAGE.get(name, DEFAULT))


def reads_arguments(image: str) -> bool:
    """Return True when the built-in program for an image reads command and args.

    Other programs serve the declared ports, whatever the arguments are.
    """
    return bool(getattr(load(program_of_image(image)), "READS_ARGUMENTS", False))


def runs_until_stopped(container: Container) -> bool:
    """Return True when the program of a container's image is known to run until it is stopped.

    A Job with such a container never completes.
    """
    module = load(program_of_image(container.image))
    return hasattr(module, "runs_until_stopped") and bool(module.runs_until_stopped(container))


def takes_ports(image: str) -> bool:
    """Return True when the built-in program for an image listens on configurable ports.

    They come from the container's ports or from an annotation.
    """
    return bool(getattr(load(program_of_image(image)), "TAKES_PORTS", False))


def load(program: str) -> ModuleType:
    """Return the module of a program."""
    return importlib.import_module(f"{__name__}.{program}")


def is_process(program: str) -> bool:
    """Return True for a program that is a process of its own, not part of an app worker."""
    return getattr(load(program), "IS_PROCESS", False)


def is_one_shot(program: str) -> bool:
    """Return True for a program that does its work once and ends, instead of serving."""
    return hasattr(load(program), "main") and program != DONE


def unmodelled_options(container: Container) -> Iterator[tuple[str, int, str]]:
    """Yield the flags of a container that its program does not model.

    Each is (field, index in the field, message).
    """
    module = load(program_of_image(container.image))
    modelled_by_program = module.options_of(container) if hasattr(module, "options_of") else None
    if modelled_by_program is None:
        return
    title, flags = modelled_by_program
    words = [*(("command", index, word) for index, word in enumerate(container.command))]
    words += [("args", index, word) for index, word in enumerate(container.args)]
    if flags is None:
        subcommand = title.rpartition(" ")[2]
        field, index, _ = next(entry for entry in words if entry[2] == subcommand)
        yield field, index, f"{title} is not modelled: it runs as an image that is not known"
        return
    for field, index, word in words:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name and not name.isdigit() and name not in flags:
            modelled = ", ".join(f"--{flag}" for flag in sorted(flags)) or "none"
            message = f"the option --{name} of {title} is not modelled and has no effect"
            yield field, index, f"{message}; modelled: {modelled}"


def delays_shutdown(setup: Setup) -> bool:
    """Return True for a built-in program that keeps serving for a while after SIGTERM."""
    return bool(setup.options.get(DELAY_SHUTDOWN))


def image_name(image: str) -> str:
    """Return the last part of an image's name.

    For example `registry.k8s.io/e2e-test-images/agnhost:2.47@sha256:…` gives `agnhost`.
    """
    return re.split(r"[:@]", image.rpartition("/")[2])[0]
