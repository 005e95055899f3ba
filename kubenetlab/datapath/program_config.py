"""Configuration that a built-in program gets from the lab, beside its manifest."""

from __future__ import annotations

from msgspec import Struct, structs

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.hoststate.programs import ListenPort, ProgramRun


class ProgramConfig(Struct, frozen=True):
    """Options and ports of one program of a pod."""

    program: str
    """Name of the program; other containers of the pod are not concerned."""
    options: JsonMapping
    listeners: tuple[ListenPort, ...] = ()


def with_config(run: ProgramRun, config: ProgramConfig | None) -> ProgramRun:
    """Return a process with its configuration; a process of another program unchanged."""
    if config is None or run.program != config.program:
        return run
    return structs.replace(
        run,
        options={**run.options, **config.options},
        listeners=(*run.listeners, *config.listeners),
    )
