"""doctor: show the features of this machine that labs need, and remedies for missing ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.cli.input.options import Output, OutputOption
from kubenetlab.cli.terminal.printing import echo, hint, print_data
from kubenetlab.cli.terminal.theme import BAD, GOOD, HEADING, MUTED, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.kernel.features.doctor import CheckResult

_MARKS = {"ok": paint("✓", GOOD), "missing": paint("✗", BAD), "optional": paint("–", WARNING)}


def doctor(
    again: Annotated[
        bool, typer.Option("--again", help="Repeat probes that already succeeded since boot.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Check which features of labs this machine supports, by trying them.

    Needs no lab and no privileges, and leaves nothing behind.
    Successful probes are remembered until the next boot.
    The exit status is 1 if no lab can run on this machine.

    Example: kubenetlab doctor
    """
    from msgspec import to_builtins

    from kubenetlab.errors import RequirementError
    from kubenetlab.kernel.features.doctor import check_machine
    from kubenetlab.lab import rundir

    try:
        cache = rundir.base_directory() / rundir.PROBE_CACHE
    except RequirementError:
        cache = None
    machine_results = check_machine(cache, again=again)
    results = [*machine_results, _capacity(), *_modes(machine_results)]
    missing = [result for result in results if result.state == "missing"]
    if output.is_data:
        print_data(to_builtins(results), output)
    else:
        _show(results)
        if missing:
            hint(missing[0].remedy or "report the output of: kubenetlab doctor -o json")
        else:
            hint("kubenetlab up")
    if missing:
        raise typer.Exit(1)


def _show(results: Sequence[CheckResult]) -> None:
    width = max(len(result.name) for result in results)
    group = ""
    for result in results:
        if result.group != group:
            if group:
                echo()
            echo(paint(result.group, HEADING))
            group = result.group
        echo(
            f"{_MARKS[result.state]} {result.name.ljust(width)}  {result.detail}", indent=width + 4
        )
        if result.remedy:
            echo(f"  {' ' * width}  {paint('→', MUTED)} {result.remedy}", indent=width + 6)


def _modes(machine_results: Sequence[CheckResult]) -> list[CheckResult]:
    """Return a result for each mode of all families, with its unmet requirements.

    Kernel features that only some options of a mode need do not make the mode unavailable.
    """
    from kubenetlab.datapath import manuals, modes
    from kubenetlab.kernel.features.detection import has_program
    from kubenetlab.kernel.features.doctor import CheckResult
    from kubenetlab.kernel.processes.permissions import is_root
    from kubenetlab.lab.requirements import missing_plugins, unmet_requirements

    available = {result.name for result in machine_results if result.state == "ok"}
    results = []
    all_modes = [(family, name) for family in modes.FAMILIES for name in modes.known(family)]
    for family, name in all_modes:
        title, mode = f"{family} {name}", modes.load(family, name, {})
        needs = mode.needs
        unmet = list(unmet_requirements(title, needs, is_root=is_root(), has_program=has_program))
        unmet += missing_plugins(title, mode.requirements)
        missing = [feature for feature in needs.all_features if feature not in available]
        if required := [entry for entry in missing if entry in mode.requirements.all_features]:
            unmet.append(f"missing kernel features: {', '.join(required)}")
        summary = manuals.manual(family, name).partition("\n")[0].partition(": ")[2]
        if missing:
            summary += f" Options that need {', '.join(missing)} are not available."
        results.append(
            CheckResult("Modes", title, "optional" if unmet else "ok", "; ".join(unmet) or summary)
        )
    return results


def _capacity() -> CheckResult:
    """Return the maximum number of pods on this machine, and the limit that is reached first."""
    from kubenetlab.kernel.features import limits
    from kubenetlab.kernel.features.doctor import LIMITS, CheckResult
    from kubenetlab.lab.capacity import max_pods

    pods, scarcest = max_pods(limits.read_limits())
    detail = f"about {pods:,} pods; the first limit is {scarcest.resource} ({scarcest.setting})"
    return CheckResult(
        LIMITS,
        "capacity",
        "ok" if pods else "missing",
        detail,
        "" if pods else scarcest.remedy.format(enough=scarcest.maximum * 2),
    )
