"""Events in tables."""

from __future__ import annotations

from kubenetlab.cli.describe.cells import event_message


def test_a_message_with_several_lines_is_one_line_of_a_table() -> None:
    """A failed operation has an error and advice below it, which would end the row."""
    message = (
        "pod/default/a/1: cannot add sandbox\n"
        "  kernel: there is no namespace 'node/n1'      wanted by: kubelet\n"
        "  → the object that it depends on is gone"
    )
    assert event_message({"message": message}) == (
        "pod/default/a/1: cannot add sandbox; kernel: there is no namespace 'node/n1' wanted by: "
        "kubelet; → the object that it depends on is gone"
    )
    assert event_message({}) == ""
