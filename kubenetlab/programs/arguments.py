"""How programs read what a container says: ports, arguments, flags."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.api.containers import Container
from kubenetlab.api.environment import expand
from kubenetlab.programs import Setup


def arguments(container: Container) -> tuple[str, ...]:
    """Command and arguments, with `$(NAME)` replaced by the container's variables."""
    values = {variable.name: variable.value for variable in container.env}
    return tuple(expand(word, values) for word in (*container.command, *container.args))


def options(words: Sequence[str]) -> dict[str, str]:
    """Flags as a mapping: `--http-port=80`, `-text hello`, `--udp` (value `true`)."""
    found: dict[str, str] = {}
    waiting = ""
    for word in words:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            name, equals, value = word.lstrip("-").partition("=")
            found[name] = value if equals else "true"
            waiting = "" if equals else name
        elif waiting:
            found[waiting] = word
            waiting = ""
    return found


def port_number(text: str, *, least: int = 1) -> int:
    """A port; ValueError, with the text a program would print, when it is none."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f'invalid port "{text}"') from None
    if not least <= number <= 65535:
        raise ValueError(f"invalid port {number}")
    return number


def misused(message: str) -> Setup:
    """What a program does that does not understand its arguments: it says so and ends with 1."""
    return Setup("misused", {"message": message})
