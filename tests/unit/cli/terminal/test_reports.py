"""Reports of errors and warnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.cli.terminal.display import PLAIN, Display
from kubenetlab.cli.terminal.reports import print_error, print_warning
from kubenetlab.errors import ManifestError, Problem, UsageError
from tests.golden.screens import capture

TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("\n\x1b[]"), max_size=20)
PROBLEMS = st.builds(
    Problem,
    TEXTS.filter(bool),
    TEXTS,
    TEXTS,
    TEXTS,
    st.integers(0, 3),
    st.lists(TEXTS, max_size=2).map(tuple),
    st.booleans(),
)


@given(st.lists(PROBLEMS, min_size=1, max_size=3))
def test_a_report_in_a_pipe_is_the_text_of_the_error(problems: list[Problem]) -> None:
    """Byte for byte, whatever the manifest contains."""
    error = ManifestError(problems)
    separator = "\n" if "\n" in str(error) else " "
    assert capture(lambda: print_error(error), PLAIN) == f"error:{separator}{error}\n"
    warning = capture(lambda: print_warning(problems[0]), PLAIN)
    assert warning == f"warning: {problems[0]}\n"


def test_other_errors_are_printed_line_by_line() -> None:
    error = UsageError('there is no pod "\x1b[2J[red]"\n  pods: client, web')
    screen = Display(is_drawn=True, has_colours=True, is_live=True, width=80)
    assert capture(lambda: print_error(error), screen) == (
        '\x1b[1;31merror:\x1b[0m\nthere is no pod "\\x1b[2J[red]"\n  pods: client, web\n'
    )
    assert capture(lambda: print_error(UsageError("no lab")), PLAIN) == "error: no lab\n"


def test_a_warning_on_a_terminal_continues_below_its_text() -> None:
    problem = Problem(
        "no node has these labels",
        object="Pod default/x",
        file="a.yaml",
        line=7,
        hints=("add a label: disk=ssd",),
    )
    screen = Display(is_drawn=True, has_colours=False, is_live=True, width=50)
    assert capture(lambda: print_warning(problem), screen).splitlines() == [
        "warning: a.yaml:7  Pod default/x: no node has",
        "                   these labels",
        "                   add a label: disk=ssd",
    ]
