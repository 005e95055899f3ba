"""Client of the control sockets of daemons in sandboxes, as BIRD has one.

Each line of an answer begins with four digits, or with a space if it continues the one before. The
last line has a space behind the digits, all others have a hyphen.

Source: BIRD 2.0, nest/cmds.c and client/birdc.c; bird.network.cz, section "Remote control".
"""

from __future__ import annotations

import asyncio
import os
import stat

from kubenetlab.kernel.file_trees import FileTrees


async def ask(trees: FileTrees, netns: str, path: str, command: str) -> list[str]:
    """Return the lines of a daemon's answer to a command.

    trees: files of all sandboxes. netns: sandbox of the daemon. path: of its socket there.
    Raises OSError if there is no such socket or the daemon closes the connection. There is no time
    limit.
    """
    directory, name = os.path.split(path)
    with trees.open_directory(netns, directory) as fd:
        # The path through /proc is short enough for a socket, and a link is refused.
        if not stat.S_ISSOCK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise OSError(f"{path} is not a socket")
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/{name}")
    try:
        await _answer(reader)  # the greeting
        writer.write(f"{command}\n".encode())
        return await _answer(reader)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> list[str]:
    lines: list[str] = []
    while raw := await reader.readline():
        lines.append(raw.decode(errors="replace").rstrip())
        # The last line may have no text, and so no space either.
        if lines[-1][:4].isdigit() and lines[-1][4:5] in (" ", ""):
            return lines
    raise OSError("; ".join(lines) or "the connection was closed")
