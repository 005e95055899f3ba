"""End of built-in programs that would otherwise run until they are stopped.

In a Job a program ends at once, because the lab cannot do the work of its image. Programs that are
known to serve until they are stopped (agnhost netexec, nginx without a command of the container's
own …) go on, as in a cluster. The annotations `kubenetlab.dev/duration` and
`kubenetlab.dev/exit-code` set the end of all built-in programs of a pod.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, to_builtins

from kubenetlab.api.containers import Container
from kubenetlab.api.pods import DURATION_ANNOTATION, EXIT_CODE_ANNOTATION, Pod, PodSpec, is_of_job
from kubenetlab.api.values.durations import duration_s
from kubenetlab.hoststate.programs import ProgramOptions
from kubenetlab.programs import DONE, Setup, is_one_shot, is_process, runs_until_stopped


class Ending(Struct, frozen=True):
    """End of a program."""

    after_s: float = 0.0
    """Time from start to end in seconds."""
    exit_code: int = 0


def ending_in(pod: Pod, container: Container) -> Ending | None:
    """Return the end of a container's built-in program in `pod`; see `ending_of`."""
    return ending_of(
        pod.spec, container, pod.metadata.annotations, is_of_job=is_of_job(pod.metadata)
    )


def ending_of(
    spec: PodSpec, container: Container, annotations: Mapping[str, str], *, is_of_job: bool
) -> Ending | None:
    """Return the end of a container's built-in program.

    Return None for a program that runs until it is stopped or ends by itself.
    """
    is_stated = EXIT_CODE_ANNOTATION in annotations or DURATION_ANNOTATION in annotations
    if container not in spec.containers or not (
        is_stated or (is_of_job and not runs_until_stopped(container))
    ):
        return None
    return Ending(
        duration_s(annotations.get(DURATION_ANNOTATION, "")) or 0.0,
        int(annotations.get(EXIT_CODE_ANNOTATION, "0")),
    )


def with_ending(setup: Setup, ending: Ending | None) -> Setup:
    """Return the setup with this end.

    One-shot programs and processes end by themselves and are returned unchanged.
    """
    if ending is None or is_one_shot(setup.program) or is_process(setup.program):
        return setup
    if not ending.after_s:
        return Setup(DONE, {"exit_code": ending.exit_code})
    options: ProgramOptions = {**setup.options, "ending": to_builtins(ending)}
    return Setup(setup.program, options, setup.listeners)
