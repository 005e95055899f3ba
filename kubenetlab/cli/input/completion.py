"""completion: the script by which a shell completes our command lines.

The script calls kubenetlab with `_KUBENETLAB_COMPLETE` set; typer then answers with words instead of running a command. What
the words are, the parameters say (`cli/input/candidates.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final

import typer

from kubenetlab.cli.terminal.printing import echo

COMPLETE_VARIABLE: Final = "_KUBENETLAB_COMPLETE"
"""Set when a shell asks: `complete_bash` and its kin."""

BASH: Final = """\
_kubenetlab_completion() {
    local IFS=$' \\t\\n' words current kept="" line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^:=]/}
    read -ra words <<<"$line"  # at blanks alone: bash's own words end at a colon, and node:worker is one
    [[ $line == *[[:blank:]] ]] && words+=("")
    current=${words[-1]}
    mapfile -t COMPREPLY < <(
        env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _KUBENETLAB_COMPLETE=complete_bash "$1" 2>/dev/null
    )
    [[ ${COMPREPLY[0]-} ]] || COMPREPLY=()  # an empty line is no word: bash completes files then
    [[ $breaks ]] && kept=${current%"${current##*[$breaks]}"}  # what bash will leave standing
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}
complete -o default -F _kubenetlab_completion kubenetlab"""
"""typer's own cuts words at colons, as bash does."""


class Shell(StrEnum):
    """What completes."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="Which shell.", show_default=False)],
) -> None:
    """Print the script that lets a shell complete commands, labs, pods and fields. Example: source <(kubenetlab completion bash)

    To have it in every shell, write it to a file: for bash ~/.local/share/bash-completion/completions/kubenetlab, for zsh _kubenetlab
    in a folder of $fpath, for fish ~/.config/fish/completions/kubenetlab.fish.
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
    """A function of `cli/input/candidates.py`, for a parameter's `autocompletion`. Nothing unless a shell asks: no other command loads them."""
    if not is_completing():
        return None
    from kubenetlab.cli.input import candidates

    found: Callable[..., list[str]] = getattr(candidates, name)
    return found


def is_completing() -> bool:
    """True when a shell wants to know what can follow, and no command is to be run."""
    return COMPLETE_VARIABLE in os.environ


def enable_completion() -> None:
    """Lets typer answer, which it does only for those who take its options of completion as well."""
    from typer._completion_classes import completion_init

    completion_init()
