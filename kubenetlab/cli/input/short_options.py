"""Commands: short options with an equals sign, as kubectl accepts them, and their help page."""

from __future__ import annotations

import re
from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

_WITH_EQUALS: Final = re.compile(r"(-[A-Za-z])=(.*)", re.DOTALL)


class Group(TyperGroup):
    """A group of commands with a help page in the style of all other output."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page."""
        from kubenetlab.cli.terminal.command_help import print_group_help

        print_group_help(self, ctx)


class Command(TyperCommand):
    """A command that accepts `-o=name` for `-o name`; click alone would parse the value `=name`."""

    # typer has no public name for the type of `ctx`.
    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page."""
        from kubenetlab.cli.terminal.command_help import print_help

        print_help(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._separated(ctx, args)))

    def _separated(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments with options and values separated.

        Arguments after `--`, and those of a program that the command runs, stay as they are.
        """
        takes_value = {
            option: not getattr(param, "is_flag", False)
            for param in self.get_params(ctx)
            for option in (*param.opts, *param.secondary_opts)
        }
        separated: list[str] = []
        is_value = False
        for index, word in enumerate(args):
            if word == "--" or not (
                word.startswith("-") or is_value or ctx.allow_interspersed_args
            ):
                return [*separated, *args[index:]]
            match = None if is_value else _WITH_EQUALS.fullmatch(word)
            if match is not None and takes_value.get(match[1]):
                separated += [match[1], match[2]]
                is_value = False
            else:
                separated.append(word)
                is_value = not is_value and takes_value.get(word, False)
        return separated
