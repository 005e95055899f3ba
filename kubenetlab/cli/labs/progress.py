"""Live progress of `up`: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from kubenetlab.cli.terminal.printing import DIM, GOOD, echo, paint

_REDRAW_S = 0.04


class _Line:
    """The last line of the screen, drawn over and over; nothing at all where there is no terminal."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._drawn_at = 0.0

    def draw(self, text: str) -> None:
        now = time.monotonic()
        if self._is_live and now - self._drawn_at >= _REDRAW_S:
            self._drawn_at = now
            sys.stdout.write(f"\r\x1b[K{text}")
            sys.stdout.flush()

    def clear(self) -> None:
        if self._is_live:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


class Progress:
    """While a lab is built."""

    def __init__(self, lab: str, nodes: int) -> None:
        self._lab = lab
        self._nodes = nodes
        self._line = _Line()
        self._phase = "namespaces"
        self._total = self._done = 0

    def tell(self, message: dict[str, Any]) -> None:
        """A message of the agent: a new phase, or how many namespaces are done, and the latest."""
        if "phase" in message:
            self._phase, self._total, self._done = message["phase"], message.get("total", 0), 0
        else:
            self._done = message["count"]
        count = f" {self._done}/{self._total}  {message.get('done', '')}" if self._total else ""
        self._line.draw(f"building {self._lab}: {self._phase}{count}")

    def built(self, message: dict[str, Any]) -> None:
        self._line.clear()
        echo(
            f"{paint('✓', GOOD)} built {message['built']} namespaces: the wire, {self._nodes} node{'s' if self._nodes != 1 else ''}, pods and external hosts"
        )
        for reason in message["reasons"]:
            echo(f"  {paint(reason, DIM)}")

    def stop(self) -> None:
        self._line.clear()


class WaitProgress:
    """While pods become ready."""

    def __init__(self) -> None:
        self._line = _Line()

    def tell(self, line: dict[str, Any]) -> None:
        waiting = [
            *line["waiting"],
            *(f"Job {one['job']}" for one in line["jobs"] if one["state"] == "waiting"),
        ]
        names = ", ".join(waiting[:3]) + (" …" if len(waiting) > 3 else "")
        self._line.draw(f"pods ready: {line['ready']}/{line['total']}  {paint(names, DIM)}")

    def stop(self) -> None:
        self._line.clear()
