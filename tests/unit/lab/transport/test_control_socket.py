"""Client of control sockets: answers of several lines, and daemons that give none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.lab.transport.control_socket import ask

NETNS, SOCKET = "node/worker", "/run/bird/bird.ctl"
GREETING = "0001 BIRD 2.0.12 ready.\n"


def answered(folder: Path, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the answer of a daemon that writes these texts, and the commands that it gets."""
    trees, commands = FileTrees(folder), list[str]()
    trees.make_directory(NETNS, os.path.dirname(SOCKET))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(texts[0].encode())
        for text in texts[1:]:
            commands.append((await reader.readline()).decode())
            writer.write(text.encode())
        writer.close()

    async def test() -> list[str]:
        path = f"{trees.path(NETNS)}{SOCKET}"
        async with await asyncio.start_unix_server(serve, path):
            return await asyncio.wait_for(ask(trees, NETNS, SOCKET, "configure"), 10)

    return asyncio.run(test()), commands


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ("0003 Reconfigured\n", ["0003 Reconfigured"]),
        (
            "0002-Reading configuration from /etc/bird/bird.conf\n0003 Reconfigured\n",
            ["0002-Reading configuration from /etc/bird/bird.conf", "0003 Reconfigured"],
        ),
        ("1002-bgp1\n 4321 is no code\n0000 \n", ["1002-bgp1", " 4321 is no code", "0000"]),
        ("0000\n", ["0000"]),
    ],
)
def test_an_answer_ends_with_a_line_without_a_hyphen(
    tmp_path: Path, answer: str, lines: list[str]
) -> None:
    assert answered(tmp_path, [GREETING, answer]) == (lines, ["configure\n"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([""], "the connection was closed"),
        ([GREETING, "0002-Reading configuration\n"], "0002-Reading configuration"),
    ],
)
def test_a_closed_connection_is_an_error(tmp_path: Path, texts: list[str], message: str) -> None:
    """An answer without its last line is not one."""
    with pytest.raises(OSError, match=message):
        answered(tmp_path, texts)


def test_a_link_in_place_of_a_socket_is_refused(tmp_path: Path) -> None:
    """It may lead to a socket of the machine."""
    trees = FileTrees(tmp_path)
    trees.make_directory(NETNS, os.path.dirname(SOCKET))
    Path(f"{trees.path(NETNS)}{SOCKET}").symlink_to("/run/other")
    with pytest.raises(OSError, match="is not a socket"):
        asyncio.run(ask(trees, NETNS, SOCKET, "configure"))
