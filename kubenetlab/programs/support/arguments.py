"""Arguments of containers: variables, flags and port numbers."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.api.containers import Container
from kubenetlab.api.environment import expand
from kubenetlab.programs import Setup


def arguments(container: Container) -> tuple[str, ...]:
    """Return command and args, with `$(NAME)` replaced by the container's variables."""
    values = {variable.name: variable.value for variable in container.env}
    return tuple(expand(word, values) for word in (*container.command, *container.args))


def options(words: Sequence[str]) -> dict[str, str]:
    """Return the flags as a mapping, name → value.

    The forms are `--http-port=80`, `-text hello` and `--udp`, whose value is `true`.
    """
    flags: dict[str, str] = {}
    pending = ""
    for word in words:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            name, equals, value = word.lstrip("-").partition("=")
            flags[name] = value if equals else "true"
            pending = "" if equals else name
        elif pending:
            flags[pending] = word
            pending = ""
    return flags


def port_number(text: str, *, least: int = 1) -> int:
    """Return the port number in `text`.

    Raises ValueError, with the message that a program would print.
    """
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f'invalid port "{text}"') from None
    if not least <= number <= 65535:
        raise ValueError(f"invalid port {number}")
    return number


def misused(message: str) -> Setup:
    """Return the setup of a program that prints an error about its arguments and exits with 1."""
    return Setup("misused", {"message": message})
