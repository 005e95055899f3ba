"""completion: print the script with which a shell completes command lines.

The script calls kubenetlab with `_KUBENETLAB_COMPLETE` set. typer then prints candidates instead of
running a command; the functions of `candidates` supply them per parameter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final

import typer

from kubenetlab.cli.terminal.printing import echo

COMPLETE_VARIABLE: Final = "_KUBENETLAB_COMPLETE"
"""Environment variable set by completion scripts, such as to `complete_bash`."""

BASH: Final = """\
_kubenetlab_completion() {
    local IFS=$' \\t\\n' words current kept=""
    local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^:=]/}
    read -ra words <<<"$line"  # split at blanks only: bash would split node:worker at the colon
    [[ $line == *[[:blank:]] ]] && words+=("")
    current=${words[-1]}
    mapfile -t COMPREPLY < <(
        env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \\
            _KUBENETLAB_COMPLETE=complete_bash "$1" 2>/dev/null
    )
    [[ ${COMPREPLY[0]-} ]] || COMPREPLY=()  # no candidates: let bash complete file names
    [[ $breaks ]] && kept=${current%"${current##*[$breaks]}"}  # bash keeps this part of the word
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}
complete -o default -F _kubenetlab_completion kubenetlab"""
"""Completion script for bash. The one of typer splits words at colons, as bash does."""


class Shell(StrEnum):
    """Shells with a completion script."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="Shell to configure.", show_default=False)],
) -> None:
    """Print a script that lets a shell complete commands, labs, pods and fields.

    To load it in every shell, write it to one of these files:
    bash  ~/.local/share/bash-completion/completions/kubenetlab
    zsh   _kubenetlab, in a directory of $fpath
    fish  ~/.config/fish/completions/kubenetlab.fish

    Example: source <(kubenetlab completion bash)
    """
    from typer._completion_shared import get_completion_script

    echo(
        BASH
        if shell is Shell.bash
        else get_completion_script(
            prog_name="kubenetlab", complete_var=COMPLETE_VARIABLE, shell=shell
        )
    )


def candidates(name: str) -> Callable[..., list[str]] | None:
    """Return a function of module `candidates` for a parameter's `autocompletion`.

    Return None unless a shell asks for candidates, so that other commands do not import the module.
    """
    if not is_completing():
        return None
    from kubenetlab.cli.input import candidates

    function: Callable[..., list[str]] = getattr(candidates, name)
    return function


def is_completing() -> bool:
    """Return True if a shell asks for candidates, so that no command runs."""
    return COMPLETE_VARIABLE in os.environ


def enable_completion() -> None:
    """Enable typer's completion, which is off because the application does not use its options."""
    from typer._completion_classes import completion_init

    completion_init()
