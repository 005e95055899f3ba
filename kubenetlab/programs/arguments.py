"""How programs read what a container says: ports, arguments, flags, durations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.api.environment import expand
from kubenetlab.programs import Setup

_UNITS: Final[Mapping[str, float]] = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


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


def duration_s(written: str) -> float | None:
    """Go's notation (`1m30s`, `500ms`) in seconds; empty is 0, nonsense is None."""
    if written in ("", "0"):
        return 0.0
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|µs|ns|m|s)", written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def misused(message: str) -> Setup:
    """What a program does that does not understand its arguments: it says so and ends with 1."""
    return Setup("misused", {"message": message})
