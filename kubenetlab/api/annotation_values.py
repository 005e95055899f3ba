"""Values of the lab's annotations: lists, conditions and ports."""

from __future__ import annotations

from typing import get_args

import msgspec

from kubenetlab.api.containers import MAX_PORT, Protocol
from kubenetlab.api.meta import Condition


def split_list(text: str) -> tuple[str, ...]:
    """Return the entries of a comma-separated list, without spaces around them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def names_in(text: str) -> tuple[str, ...]:
    """Return the entries of a JSON list of strings, as in Calico's annotations.

    Raises ValueError if the text is something else.
    """
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.MsgspecError:
        raise ValueError(text) from None


def conditions_in(text: str) -> tuple[Condition, ...]:
    """Return the conditions of the annotation `kubenetlab.dev/conditions`.

    Raises ValueError with the first part that is not a condition or repeats one.
    """
    conditions: dict[str, Condition] = {}
    for part in split_list(text):
        name, _, status = (word.strip() for word in part.partition("="))
        match status:
            case "True" | "False" | "Unknown" if name and name not in conditions:
                conditions[name] = Condition(name, status)
            case _:
                raise ValueError(part)
    return tuple(conditions.values())


def ports_in(text: str) -> tuple[tuple[Protocol, int], ...]:
    """Return the (protocol, port) pairs of the annotation `kubenetlab.dev/listen`, each once.

    Raises ValueError with the first part that is not a port.
    """
    ports: dict[tuple[Protocol, int], None] = {}
    for part in split_list(text):
        number, _, suffix = part.partition("/")
        name = suffix.strip().upper() or "TCP"
        protocol = next((known for known in get_args(Protocol) if known == name), None)
        if protocol is None or not (
            number.isascii() and number.isdigit() and 1 <= int(number[:6]) <= MAX_PORT
        ):
            raise ValueError(part)
        ports[protocol, int(number)] = None
    return tuple(ports)
