"""A private /run without other labs, for commands that name no lab."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.labs.lab import COMMAND
from tests.patience import patiently

_BEGIN = "mount -t tmpfs tmpfs /run && mkdir /run/netns && echo ready && exec cat"


@contextmanager
def private_run_directory(folder: str) -> Iterator[list[str]]:
    """Yield the prefix of commands that run with the private /run, in `folder`.

    At the end all labs there are removed.
    """
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _BEGIN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        enter = ["nsenter", f"--target={holder.pid}", "--mount", f"--wdns={folder}"]
        try:
            yield enter
        finally:
            subprocess.run(
                [*enter, *COMMAND, "down", "--all"],
                capture_output=True,
                check=True,
                timeout=patiently(60),
            )
            holder.communicate()
