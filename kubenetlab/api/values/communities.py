"""BGP communities as texts: standard ones such as 65000:120, and large ones such as 65000:1:2.

Source: RFC 1997 and RFC 8092; the well-known names are those of RFC 1997, 3765, 7999 and 8326.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kubenetlab.api.text.decode import found

_FORM: Final = re.compile(r"\d{1,10}(:\d{1,10}){1,2}", re.ASCII)
_MAX_PART: Final = {2: 0xFFFF, 3: 0xFFFFFFFF}
"""Number of parts → largest value of a part."""
WELL_KNOWN: Final[Mapping[str, int]] = {
    "internet": 0,
    "graceful-shutdown": 0xFFFF0000,
    "blackhole": 0xFFFF029A,
    "no-export": 0xFFFFFF01,
    "no-advertise": 0xFFFFFF02,
    "no-export-subconfed": 0xFFFFFF03,
    "no-peer": 0xFFFFFF04,
}
"""Name of a standard community → its value of 32 bits."""


def parts(community: str) -> tuple[int, ...]:
    """Return the two or three numbers of a valid community."""
    return tuple(int(part) for part in community.split(":"))


def community_fault(text: str) -> str | None:
    """Return why a text is not a community, or None if it is one."""
    if _FORM.fullmatch(text):
        numbers = parts(text)
        if max(numbers) <= _MAX_PART[len(numbers)]:
            return None
    return (
        "expected a community such as 65000:120 (two numbers to 65535) or 65000:1:2 (three "
        f"numbers to 4294967295), found {found(text)}"
    )


def standard_community(text: str) -> str:
    """Return a standard community in the form 65000:120. Raises ValueError for other texts.

    text: this form, a number of 32 bits, or a well-known name.
    """
    if text.isascii() and text.isdigit() and int(text[:11]) <= 0xFFFFFFFF:
        value = int(text)
    elif text in WELL_KNOWN:
        value = WELL_KNOWN[text]
    elif text.count(":") == 1 and community_fault(text) is None:
        return ":".join(map(str, parts(text)))
    else:
        raise ValueError(text)
    return f"{value >> 16}:{value & 0xFFFF}"
