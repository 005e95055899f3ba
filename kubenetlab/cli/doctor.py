"""doctor: what this machine can do, and what is missing for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kubenetlab.cli.input.options import Output, OutputOption
from kubenetlab.cli.terminal.printing import (
    BAD,
    DIM,
    GOOD,
    WARNING,
    echo,
    hanging_indent,
    hint,
    paint,
    print_data,
)

if TYPE_CHECKING:
    from kubenetlab.kernel.features.doctor import CheckResult

_MARKS = {"ok": paint("✓", GOOD), "missing": paint("✗", BAD), "optional": paint("–", WARNING)}


def doctor(
    again: Annotated[
        bool, typer.Option("--again", help="Try anew what has worked since the machine was booted.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Say what this machine can do, by trying it. Exit status 1 when a lab cannot run here. Example: kubenetlab doctor

    Needs no lab and no privilege, and leaves nothing behind. What was tried and worked is taken for granted until the next boot.
    """
    from msgspec import to_builtins

    from kubenetlab.errors import RequirementError
    from kubenetlab.kernel.features.doctor import examine
    from kubenetlab.lab import rundir

    try:
        kept = rundir.base() / rundir.TRIED
    except RequirementError:
        kept = None
    found = examine(kept, again=again)
    findings = [*found, _room(), *_modes(found)]
    if output.is_data:
        print_data(to_builtins(findings), output)
    else:
        _show(findings)
        lacking = [item for item in findings if item.state == "missing"]
        if lacking:
            hint(lacking[0].remedy or "ask for help with the output of: kubenetlab doctor -o json")
        else:
            hint("kubenetlab up")
    if any(item.state == "missing" for item in findings):
        raise typer.Exit(1)


def _show(findings: Sequence[CheckResult]) -> None:
    width = max(len(item.name) for item in findings)
    group = ""
    for item in findings:
        if item.group != group:
            if group:
                echo()
            echo(paint(item.group, None, bold=True))
            group = item.group
        echo(
            hanging_indent(
                f"{_MARKS[item.state]} {item.name.ljust(width)}  ", item.detail, width + 4
            )
        )
        if item.remedy:
            echo(hanging_indent(f"  {' ' * width}  {paint('→', DIM)} ", item.remedy, width + 6))


def _modes(found: Sequence[CheckResult]) -> list[CheckResult]:
    """Each mode that can be chosen: whether it can be used here, and what it lacks."""
    from kubenetlab.datapath import modes
    from kubenetlab.kernel.features.detection import has_program
    from kubenetlab.kernel.features.doctor import CheckResult
    from kubenetlab.kernel.processes.permissions import is_root
    from kubenetlab.lab.requirements import faults

    works = {item.name for item in found if item.state == "ok"}
    findings = []
    for family, name in [(one, name) for one in modes.FAMILIES for name in modes.known(one)]:
        title, needs = f"{family} {name}", modes.load(family, name, {}).needs
        lacks = list(faults(title, needs, is_root=is_root(), has_program=has_program))
        if unknown := [feature for feature in needs.features if feature not in works]:
            lacks.append(f"the kernel was not found to have {', '.join(unknown)}")
        what = modes.manual(family, name).partition("\n")[0].partition(": ")[2]
        findings.append(
            CheckResult("Modes", title, "optional" if lacks else "ok", "; ".join(lacks) or what)
        )
    return findings


def _room() -> CheckResult:
    """How many pods a lab may have here."""
    from kubenetlab.kernel.features import limits
    from kubenetlab.kernel.features.doctor import LIMITS, CheckResult
    from kubenetlab.lab.capacity import pods_that_fit

    pods, scarcest = pods_that_fit(limits.read())
    detail = f"for about {pods:,} pods; what ends first is {scarcest.resource} ({scarcest.setting})"
    return CheckResult(
        LIMITS,
        "room",
        "ok" if pods else "missing",
        detail,
        "" if pods else scarcest.remedy.format(enough=scarcest.maximum * 2),
    )
