"""All commands, in the order of the help. The module of a command is imported when it is used."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from kubenetlab import __version__
from kubenetlab.cli.input.completion import is_completing
from kubenetlab.cli.input.short_options import Command, Group

LIFECYCLE = "Create and change labs"
OBSERVE = "Observe"
ACT = "Act"
REFERENCE = "This machine, and reference"


class CommandSource(NamedTuple):
    """Location of a command: a module below kubenetlab.cli and the name of a function or group."""

    file: str
    function: str
    panel: str
    """Heading in the help under which the command is listed."""


COMMANDS: Final[Mapping[str, CommandSource]] = {
    "up": CommandSource("labs.up", "up", LIFECYCLE),
    "apply": CommandSource("labs.up", "apply", LIFECYCLE),
    "delete": CommandSource("objects.delete", "delete", LIFECYCLE),
    "down": CommandSource("labs.down", "down", LIFECYCLE),
    "plan": CommandSource("labs.plan", "plan", LIFECYCLE),
    "list": CommandSource("labs.lab_list", "list_", LIFECYCLE),
    "get": CommandSource("objects.get", "get", OBSERVE),
    "describe": CommandSource("objects.describe", "describe", OBSERVE),
    "ping": CommandSource("probing.ping", "ping", OBSERVE),
    "check": CommandSource("probing.check", "check", OBSERVE),
    "explain-policy": CommandSource("probing.explain_policy", "explain_policy", OBSERVE),
    "policy": CommandSource("probing.policy_log", "app", OBSERVE),
    "logs": CommandSource("objects.logs", "logs", OBSERVE),
    "inspect": CommandSource("probing.inspect", "inspect", OBSERVE),
    "flows": CommandSource("probing.flows", "flows", OBSERVE),
    "diff": CommandSource("probing.inspect", "diff", OBSERVE),
    "exec": CommandSource("objects.exec", "exec_", ACT),
    "shell": CommandSource("objects.exec", "shell", ACT),
    "port-forward": CommandSource("objects.port_forward", "port_forward", ACT),
    "scale": CommandSource("objects.scale", "scale", ACT),
    "rollout": CommandSource("objects.rollout", "app", ACT),
    "break": CommandSource("labs.faults", "break_", ACT),
    "heal": CommandSource("labs.faults", "heal", ACT),
    "compare": CommandSource("labs.compare", "compare", REFERENCE),
    "modes": CommandSource("modes", "modes", REFERENCE),
    "explain": CommandSource("explain", "explain", REFERENCE),
    "schema": CommandSource("schema", "schema", REFERENCE),
    "completion": CommandSource("input.completion", "completion", REFERENCE),
    "doctor": CommandSource("doctor", "doctor", REFERENCE),
}


def load(name: str) -> Callable[..., None] | typer.Typer:
    """Import a command and return its function, or the typer application of a group."""
    module = import_module(f"kubenetlab.cli.{COMMANDS[name].file}")
    loaded: Callable[..., None] | typer.Typer = getattr(module, COMMANDS[name].function)
    return loaded


class _Commands(Mapping[str, TyperCommand | TyperGroup]):
    """Commands as typer expects them, created on access.

    Creating all of them would take longer than most commands run.
    """

    def __getitem__(self, name: str) -> TyperCommand | TyperGroup:
        if name not in COMMANDS:
            raise KeyError(name)
        return command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def root() -> TyperGroup:
    """Return the group of all commands, as typer expects it."""
    made = get_command(app)
    assert isinstance(made, TyperGroup)
    return made


@cache
def command(name: str) -> TyperCommand | TyperGroup:
    """Return a command with its parameters, as typer expects it."""
    loaded, panel = load(name), COMMANDS[name].panel
    application = (
        loaded
        if isinstance(loaded, typer.Typer)
        else typer.Typer(add_completion=False, context_settings=_SETTINGS)
    )
    if not isinstance(loaded, typer.Typer):
        application.command(name, cls=Command, rich_help_panel=panel)(loaded)
    made = get_command(application)
    assert isinstance(made, TyperCommand | TyperGroup)
    made.name, made.rich_help_panel = name, panel
    return made


class _Summaries(_Commands):
    """Commands for the list in the help, without parameters, which take longest to create."""

    def __getitem__(self, name: str) -> TyperCommand | TyperGroup:
        loaded = load(name)
        if isinstance(loaded, typer.Typer):
            return super().__getitem__(name)
        return TyperCommand(
            name, help=inspect.cleandoc(loaded.__doc__ or ""), rich_help_panel=COMMANDS[name].panel
        )


class _Group(Group):
    """Command group that imports each command when typer reads it from the mapping."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # click declares a mutable mapping, but only reads it.
        self.commands = _Commands()  # type: ignore[assignment]

    # typer has no public names for the types of contexts, parameters and formatters.
    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command; report an error of the arguments in the style of all other errors."""
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        try:
            status = super().main(*args, **extra | {"standalone_mode": False})
        except _UsageError as error:
            from kubenetlab.cli.terminal.command_help import print_usage_error

            print_usage_error(error)
            raise SystemExit(error.exit_code) from None
        except typer.Abort:
            raise SystemExit(1) from None
        raise SystemExit(status if isinstance(status, int) else 0)

    def get_params(self, ctx: Any) -> list[Any]:
        """Leave out the options that typer adds with completion: `completion` replaces them."""
        return [param for param in super().get_params(ctx) if param.name not in _COMPLETION_OPTIONS]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move options before the command behind it, as kubectl allows: `-n shop get pods`."""
        leading: list[str] = []
        rest = list(args)
        while rest and (match := _LEADING_OPTION.fullmatch(rest[0])):
            count = 1 if match["value"] is not None else 2
            leading, rest = [*leading, *rest[:count]], rest[count:]
        names = 2 if rest[:1] in (["rollout"], ["policy"]) else 1
        return super().parse_args(ctx, [*rest[:names], *leading, *rest[names:]] if rest else args)

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
        # as in `__init__`
        shown.commands = _Summaries()  # type: ignore[assignment]
        super(_Group, shown).format_help(ctx, formatter)


_LEADING_OPTION: Final = re.compile(r"(-n|--namespace|--lab)(?P<value>=.*)?", re.DOTALL)
"""Options that are allowed before the command."""
_UsageError: Final[Any] = typer.BadParameter.__base__
"""Error of an argument; typer does not export this class of click."""
_COMPLETION_OPTIONS: Final = ("install_completion", "show_completion")
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=_Group,
    help=(
        "The whole Kubernetes networking model on one Linux machine, built from real kernel "
        "objects. Start with: kubenetlab up"
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=is_completing(),  # otherwise nothing of it is needed
    epilog="`--debug` before or after any command prints the traceback of an error.",
    context_settings=_SETTINGS,
)


def _version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"kubenetlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass
