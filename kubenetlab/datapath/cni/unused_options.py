"""Options of CNI modes that another option leaves without effect."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from kubenetlab.api.text.decode import Finding
from kubenetlab.datapath.modes import ModeOptions


def unused_options(mode: ModeOptions, *names: str, because: str) -> Iterator[Finding]:
    """Yield a warning for each of some options that differs from its default.

    names: fields of the mode. because: the option that leaves them without effect, and its value.
    """
    for field in structs.fields(mode):
        if field.name in names and getattr(mode, field.name) != field.default:
            yield Finding((field.encode_name,), f"has no effect with {because}", is_warning=True)
