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

from kubenetlab.cli.terminal.printing import print_verbatim

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


ZSH: Final = (
    "#compdef kubenetlab\n\n"
    "_kubenetlab_completion() {\n"
    '  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" '
    "_KUBENETLAB_COMPLETE=complete_zsh kubenetlab)\n"
    "}\n\n"
    "compdef _kubenetlab_completion kubenetlab"
)
"""Completion script for zsh, as typer writes it."""

_FISH_CALL: Final = (
    "env _KUBENETLAB_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION={action} "
    "_TYPER_COMPLETE_ARGS=(commandline -cp) kubenetlab"
)
FISH: Final = (
    "complete --command kubenetlab --no-files "
    f'--arguments "({_FISH_CALL.format(action="get-args")})" '
    f'--condition "{_FISH_CALL.format(action="is-args")}"'
)
"""Completion script for fish, as typer writes it."""


class Shell(StrEnum):
    """Shells with a completion script."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


_SCRIPTS: Final = {Shell.bash: BASH, Shell.zsh: ZSH, Shell.fish: FISH}


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
    print_verbatim(_SCRIPTS[shell])


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
