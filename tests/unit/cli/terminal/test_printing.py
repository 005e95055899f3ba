"""Lines and tables in pipes, on terminals, and in pipes with forced colours."""

from __future__ import annotations

import threading

import pytest

from kubenetlab.cli.terminal.display import PLAIN, Display
from kubenetlab.cli.terminal.layout import TableLayout
from kubenetlab.cli.terminal.printing import (
    LiveLine,
    TableWriter,
    echo,
    hint,
    note,
    prepare_drawing,
    print_data,
    print_table,
    print_verbatim,
    progress_bar,
)
from kubenetlab.cli.terminal.theme import BAD, BREAK, GOOD, paint
from tests.golden.screens import capture
from tests.patience import patiently

NARROW = Display(is_drawn=True, has_colours=False, is_live=True, width=40)
COLOURED = Display(is_drawn=True, has_colours=True, is_live=True, width=40)
FORCED = Display(is_drawn=True, has_colours=True, is_live=False, width=None)
LONG = f"{paint('✗', BAD)} veth  links of pods and nodes, as ports of a br_netfilter-bridge"


@pytest.mark.parametrize(
    ("display", "expected"),
    [
        (PLAIN, "✗ veth  links of pods and nodes, as ports of a br_netfilter-bridge\n"),
        (NARROW, "✗ veth  links of pods and nodes, as\n        ports of a br_netfilter-bridge\n"),
        (
            COLOURED,
            "\x1b[1;31m✗\x1b[0m veth  links of pods and nodes, as\n"
            "        ports of a br_netfilter-bridge\n",
        ),
        (
            FORCED,
            "\x1b[1;31m✗\x1b[0m veth  links of pods and nodes, as ports of a br_netfilter-bridge\n",
        ),
        (
            Display(is_drawn=True, has_colours=False, is_live=True, width=27),
            "✗ veth  links of pods and\nnodes, as ports of a\nbr_netfilter-bridge\n",
        ),
        (
            Display(is_drawn=True, has_colours=False, is_live=True, width=19),
            "✗ veth  links of pods and nodes, as ports of a br_netfilter-bridge\n",
        ),
    ],
)
def test_a_line_is_folded_on_a_terminal_alone(display: Display, expected: str) -> None:
    """With a hanging indent, if there is room for it; a very narrow terminal folds lines itself."""
    assert capture(lambda: echo(LONG, indent=8), display) == expected


def test_an_indented_line_continues_below_its_beginning() -> None:
    """Also after tabs, with which nft indents."""
    text = "\t\tip daddr 10.96.0.10 jump mark"
    assert capture(lambda: echo(text), NARROW) == (
        "                ip daddr 10.96.0.10 jump\n                  mark\n"
    )
    assert capture(lambda: echo(text), PLAIN) == f"{text}\n"


def test_control_characters_do_not_reach_a_terminal() -> None:
    """Those of styles do; brackets are no markup."""
    text = "[bold]" + paint("a\x1b[2Jb", GOOD) + "\u202e[/bold]"
    assert capture(lambda: note(text), COLOURED) == (
        "[bold]\x1b[32ma\\x1b[2Jb\x1b[0m\\x202e[/bold]\n"
    )
    table = capture(lambda: print_table(("NAME",), [("a\x1b[2J[red]",)]), COLOURED)
    assert table.splitlines()[1] == "a\\x1b[2J[red]"


def test_an_error_of_the_import_in_the_background_is_not_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For example where memory is short: the command itself reports it, once."""
    imported = threading.Event()

    def fail(_: str) -> None:
        imported.set()
        raise MemoryError

    monkeypatch.setattr("kubenetlab.cli.terminal.printing.import_module", fail)

    def prepare() -> None:
        prepare_drawing()
        assert imported.wait(patiently(20))
        for thread in threading.enumerate():
            if thread.daemon and thread.name.endswith("(_import_drawing)"):
                thread.join(patiently(20))

    assert capture(prepare, NARROW) == ""
    imported.clear()
    capture(prepare_drawing, PLAIN)
    assert not imported.is_set()


def test_data_and_commands_are_not_folded() -> None:
    """Data can be piped on, and the command of a hint can be copied."""
    long = "x" * 50
    assert capture(lambda: print_verbatim(long), NARROW) == f"{long}\n"
    assert capture(lambda: print_data({"a": long}, "yaml"), NARROW) == f"a: {long}\n"
    assert capture(lambda: hint(f"kubenetlab {long}"), NARROW) == f"next: kubenetlab {long}\n"


def test_an_environment_variable_turns_hints_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty value means that it is not set; notes are printed always."""
    monkeypatch.setenv("KUBENETLAB_NO_HINTS", "")
    assert capture(lambda: hint("kubenetlab ping"), PLAIN) == "next: kubenetlab ping\n"
    monkeypatch.setenv("KUBENETLAB_NO_HINTS", "1")
    assert capture(lambda: hint("kubenetlab ping"), PLAIN) == ""
    assert capture(lambda: note("note: slow"), PLAIN) == "note: slow\n"


@pytest.mark.parametrize(
    ("display", "expected"),
    [
        (NARROW, "next: kubenetlab explain stale, or\n      kubenetlab heal 1\n"),
        (PLAIN, "next: kubenetlab explain stale, or kubenetlab heal 1\n"),
        (FORCED, "\x1b[2mnext: kubenetlab explain stale, or kubenetlab heal 1\x1b[0m\n"),
    ],
)
def test_two_commands_to_run_next_have_lines_of_their_own_on_a_narrow_terminal(
    display: Display, expected: str
) -> None:
    command = "kubenetlab explain stale, or kubenetlab heal 1"
    assert capture(lambda: hint(command), display) == expected


def test_a_folded_cell_continues_beside_its_mark() -> None:
    rows = [(f"{paint('✗', BAD)} default/web-689d74864d-zhm5x", "no answer")]
    drawn = capture(lambda: print_table(("SOURCE", "RESULT"), rows), NARROW)
    assert drawn.splitlines()[1:] == [
        "✗ default/web-689d74864d-      no answer",
        "  zhm5x",
    ]


def test_a_table_can_be_printed_in_parts() -> None:
    """As `get -w` does: a terminal widens columns for later rows."""

    def write() -> None:
        table = TableWriter(TableLayout(("NAME", "AGE"), numbers=("AGE",)))
        table.write([("web", "5s")])
        table.write([("a-long-name", "100s")])

    assert capture(write, PLAIN) == "NAME   AGE\nweb    5s\na-long-name   100s\n"
    assert capture(write, NARROW) == "NAME   AGE\nweb     5s\na-long-name   100s\n"


def test_a_pipe_with_colours_has_the_columns_of_a_pipe() -> None:
    rows = [(paint("Running", GOOD), "x" * 200), ("Pending", "")]
    plain = capture(lambda: print_table(("STATUS", "MESSAGE"), rows), PLAIN)
    coloured = capture(lambda: print_table(("STATUS", "MESSAGE"), rows), FORCED)
    for code in ("\x1b[1m", "\x1b[32m", "\x1b[0m"):
        assert code in coloured
        coloured = coloured.replace(code, "")
    assert coloured == plain


@pytest.mark.parametrize(
    ("display", "expected"),
    [
        (PLAIN, "  a    (was: b)\n"),
        (FORCED, "  a    (was: b)\n"),
        (NARROW, "  a\n      (was: b)\n"),
    ],
)
def test_a_terminal_breaks_a_line_where_asked(display: Display, expected: str) -> None:
    assert capture(lambda: echo(f"  a{BREAK}(was: b)", indent=6), display) == expected


def test_progress_is_one_line_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut to the terminal's width, and nothing of it is printed elsewhere."""
    monkeypatch.setattr("kubenetlab.cli.terminal.printing._REDRAW_S", 0.0)

    def draw() -> None:
        line = LiveLine()
        line.draw(f"pods ready: {progress_bar(5, 20)}")
        line.draw(f"pods ready: {progress_bar(20, 20)}  " + "x" * 40)
        line.clear()

    assert capture(draw, PLAIN) == ""
    assert capture(draw, FORCED) == ""
    assert capture(draw, NARROW).split("\r\x1b[K") == [
        "",
        f"pods ready: {'━' * 20} 5/20",
        f"pods ready: {'━' * 20} 20/20…",
        "",
    ]
