"""What containers run: built-in programs, chosen by image and arguments. Pure: a request goes in, an answer comes out.

A program is a file. It has `configure(container, ports)`, which says on which ports to listen and (then it says
READS_ARGUMENTS) looks at the arguments, and what it needs of `http(request, me)`, `datagram(data, peer, me)` and `main(me)`. Whoever opens the sockets calls them.
One whose image is known never to end says so of a container in `runs_until_stopped(container)`.
One that remembers something says what in `memory()`; `configured(me)` is called with its options and whenever they change, `told(news, me)` with what the lab tells it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from msgspec import Struct

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ListenPort

DEFAULT: Final = "default"
DONE: Final = "done"
COMMAND: Final = "command"
DELAY_SHUTDOWN: Final = "delay_shutdown_s"
"""The option of a program that says for how many seconds it serves on after SIGTERM."""

_PROGRAM_OF_IMAGE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("agnhost",), "agnhost"),
    **dict.fromkeys(("http-echo",), "http_echo"),
    **dict.fromkeys(("nginx", "nginx-slim", "httpd", "apache"), "web"),
    **dict.fromkeys(("coredns",), "coredns"),
    **dict.fromkeys(("kube-proxy",), "kube_proxy"),
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
"""The last part of an image's name → the module that stands in for it; every other image gets the default server."""


class Ports(Struct, frozen=True):
    """What is known of the ports on which a container's image listens, beside those that the container declares."""

    assumed: tuple[ListenPort, ...] = ()
    """Numeric target ports of Services, for a container that declares no port."""
    stated: tuple[ListenPort, ...] | None = None
    """Those of the annotation `kubenetlab.dev/listen`; they replace all others."""

    def of(self, container: Container) -> tuple[ListenPort, ...]:
        """Return where a server that stands in for the container's image listens."""
        return self.stated if self.stated is not None else declared_ports(container) or self.assumed


class Setup(Struct, frozen=True):
    """How one container runs: the program, its options (plain data), and where it listens."""

    program: str
    options: dict[str, Any] = {}
    listeners: tuple[ListenPort, ...] = ()


def setup(container: Container, ports: Ports = Ports()) -> Setup:
    """Return what a container runs."""
    configured: Setup = load(program_of_image(container.image)).configure(container, ports)
    return configured


def declared_ports(container: Container) -> tuple[ListenPort, ...]:
    """Return the ports that a container says it listens on, each once."""
    return tuple(
        dict.fromkeys(ListenPort(port.protocol, port.container_port) for port in container.ports)
    )


def program_of_image(image: str) -> str:
    """Return the name of the built-in program that stands in for an image."""
    return _PROGRAM_OF_IMAGE.get(image_name(image), DEFAULT)


def reads_arguments(image: str) -> bool:
    """True when the stand-in for an image looks at command and args; the others serve the declared ports, whatever stands there."""
    return bool(getattr(load(program_of_image(image)), "READS_ARGUMENTS", False))


def runs_until_stopped(container: Container) -> bool:
    """Return True when a container's image is known to run until it is stopped: a Job with it never completes."""
    module = load(program_of_image(container.image))
    return hasattr(module, "runs_until_stopped") and bool(module.runs_until_stopped(container))


def takes_ports(image: str) -> bool:
    """Return True when the stand-in for an image listens where its container's ports or an annotation say."""
    return bool(getattr(load(program_of_image(image)), "TAKES_PORTS", False))


def load(program: str) -> ModuleType:
    """A program's module, by its name."""
    return importlib.import_module(f"{__name__}.{program}")


def is_process(program: str) -> bool:
    """True for a program that is a process of its own, not a part of an app worker."""
    return getattr(load(program), "IS_PROCESS", False)


def is_one_shot(program: str) -> bool:
    """True when a program asks something once and ends, instead of serving."""
    return hasattr(load(program), "main") and program != DONE


def unmodelled_options(container: Container) -> Iterator[tuple[str, int, str]]:
    """Yield the flags of a container that its program does not model: (field, index in it, what there is to say)."""
    module = load(program_of_image(container.image))
    known = module.options_of(container) if hasattr(module, "options_of") else None
    if known is None:
        return
    title, flags = known
    words = [*(("command", index, word) for index, word in enumerate(container.command))]
    words += [("args", index, word) for index, word in enumerate(container.args)]
    if flags is None:
        field, index, _ = next(found for found in words if found[2] == title.rpartition(" ")[2])
        yield field, index, f"{title} is not modelled: it runs as an image that is not known"
        return
    for field, index, word in words:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name and not name.isdigit() and name not in flags:
            modelled = ", ".join(f"--{flag}" for flag in sorted(flags)) or "none"
            yield (
                field,
                index,
                f"the option --{name} of {title} is not modelled and has no effect; modelled: {modelled}",
            )


def serves_on(setup: Setup) -> bool:
    """Return True for a built-in program that goes on for a while after SIGTERM."""
    return bool(setup.options.get(DELAY_SHUTDOWN))


def image_name(image: str) -> str:
    """`registry.k8s.io/e2e-test-images/agnhost:2.47@sha256:…` → `agnhost`."""
    return re.split(r"[:@]", image.rpartition("/")[2])[0]
