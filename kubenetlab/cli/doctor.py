"""doctor: what this machine can do, and what is missing for what."""

from __future__ import annotations

import typer

from kubenetlab.cli.options import Output, OutputOption
from kubenetlab.cli.screen import BAD, GOOD, MILD, data, hint, paint, say

_MARKS = {"ok": paint("✓", GOOD), "missing": paint("✗", BAD), "optional": paint("–", MILD)}


def doctor(output: OutputOption = Output.table) -> None:
    """Say what this machine can do, by trying it. Exit status 1 when a lab cannot run here. Example: kubenetlab doctor"""
    from kubenetlab.kernel.doctor import examine

    findings = examine()
    if output.is_data:
        data([{"name": item.name, "state": item.state, "detail": item.detail, "remedy": item.remedy} for item in findings], output)
    else:
        width = max(len(item.name) for item in findings)
        for item in findings:
            say(f"{_MARKS[item.state]} {item.name.ljust(width)}  {item.detail}")
            if item.remedy:
                say(f"  {' ' * width}  → {item.remedy}")
        lacking = [item for item in findings if item.state == "missing"]
        if lacking:
            hint(lacking[0].remedy or "ask for help with the output of: kubenetlab doctor -o json")
        else:
            hint("kubenetlab up")
    if any(item.state == "missing" for item in findings):
        raise typer.Exit(1)
