"""All commands, in the order in which help shows them. Each lives in the file of its group, which is loaded when it is asked for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from copy import copy
from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from kubenetlab import __version__
from kubenetlab.cli.input.short_options import Command

LIFE, LOOK, ACT, MACHINE = "A lab's life", "Look", "Act", "This machine, and what can be chosen"


class CommandSource(NamedTuple):
    """Where a command is: a function, or with `app` a group of commands, of a file in this folder."""

    file: str
    function: str
    panel: str


COMMANDS: Final[Mapping[str, CommandSource]] = {
    "up": CommandSource("labs.up", "up", LIFE),
    "apply": CommandSource("labs.up", "apply", LIFE),
    "delete": CommandSource("objects.delete", "delete", LIFE),
    "down": CommandSource("labs.down", "down", LIFE),
    "plan": CommandSource("labs.plan", "plan", LIFE),
    "list": CommandSource("labs.lab_list", "list_", LIFE),
    "get": CommandSource("objects.get", "get", LOOK),
    "describe": CommandSource("objects.describe", "describe", LOOK),
    "ping": CommandSource("probing.ping", "ping", LOOK),
    "check": CommandSource("probing.check", "check", LOOK),
    "logs": CommandSource("objects.logs", "logs", LOOK),
    "inspect": CommandSource("probing.inspect", "inspect", LOOK),
    "diff": CommandSource("probing.inspect", "diff", LOOK),
    "exec": CommandSource("objects.exec", "exec_", ACT),
    "shell": CommandSource("objects.exec", "shell", ACT),
    "port-forward": CommandSource("objects.port_forward", "port_forward", ACT),
    "scale": CommandSource("objects.scale", "scale", ACT),
    "rollout": CommandSource("objects.rollout", "app", ACT),
    "break": CommandSource("labs.faults", "break_", ACT),
    "heal": CommandSource("labs.faults", "heal", ACT),
    "modes": CommandSource("modes", "modes", MACHINE),
    "explain": CommandSource("explain", "explain", MACHINE),
    "schema": CommandSource("schema", "schema", MACHINE),
    "completion": CommandSource("input.completion", "completion", MACHINE),
    "doctor": CommandSource("doctor", "doctor", MACHINE),
}


def load(name: str) -> Any:
    """A command, or a group of commands: its function, or its application."""
    return getattr(import_module(f"kubenetlab.cli.{COMMANDS[name].file}"), COMMANDS[name].function)


class _Commands(Mapping[str, Any]):
    """The commands as typer calls them, each made when somebody wants it: to make them all takes longer than most of them run."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        what, panel = load(name), COMMANDS[name].panel
        single = (
            what
            if isinstance(what, typer.Typer)
            else typer.Typer(add_completion=False, context_settings=_SETTINGS)
        )
        if single is not what:
            single.command(name, cls=Command, rich_help_panel=panel)(what)
        command: Any = get_command(single)
        command.name, command.rich_help_panel = name, panel
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Summaries(_Commands):
    """The commands as the list of all of them shows them: without their parameters, which take longest to make."""

    def __getitem__(self, name: str) -> Any:
        what = load(name)
        if isinstance(what, typer.Typer):
            return super().__getitem__(name)
        return TyperCommand(
            name, help=inspect.cleandoc(what.__doc__ or ""), rich_help_panel=COMMANDS[name].panel
        )


class _Group(TyperGroup):
    """A group that loads its commands one by one; typer only reads the mapping."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read options that kubectl takes before the command as if they stood behind it: `-n shop get pods`."""
        ahead: list[str] = []
        rest = list(args)
        while rest and (found := _AHEAD.fullmatch(rest[0])):
            count = 1 if found["value"] is not None else 2
            ahead, rest = [*ahead, *rest[:count]], rest[count:]
        names = 2 if rest[:1] == ["rollout"] else 1
        return super().parse_args(ctx, [*rest[:names], *ahead, *rest[names:]] if rest else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] == "help":
            if not args[1:]:
                typer.echo(ctx.get_help())
                raise typer.Exit
            args = [*args[1:], "--help"]
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from kubenetlab.cli.objects.kubectl_commands import unknown_command

            raise unknown_command(args[0], args[1:], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown = copy(self)
        shown.commands = _Summaries()  # type: ignore[assignment]
        super(_Group, shown).format_help(ctx, formatter)


_AHEAD: Final = re.compile(r"(-n|--namespace|--lab)(?P<value>=.*)?", re.DOTALL)
"""Options that may stand before the command."""
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=_Group,
    help="Kubernetes' whole networking model on one Linux machine, made of real kernel objects. Begin with: kubenetlab up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="`--debug` before or behind any command shows where an error comes from.",
    context_settings=_SETTINGS,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kubenetlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass
