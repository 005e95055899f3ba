"""Progress of `up`: one line that is redrawn on a terminal; without a terminal only results."""

from __future__ import annotations

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.terminal.printing import LiveLine, echo, progress_bar
from kubenetlab.cli.terminal.theme import GOOD, MUTED, paint
from kubenetlab.lab.messages.creation import LabBuilt, NamespaceMade, PhaseStarted


class Progress:
    """Progress of building a lab."""

    def __init__(self, lab: str, nodes: int) -> None:
        self._lab = lab
        self._nodes = nodes
        self._line = LiveLine()
        self._phase = "namespaces"
        self._total = self._done = 0

    def update(self, message: PhaseStarted | NamespaceMade) -> None:
        """Show a message of the agent."""
        netns = ""
        if isinstance(message, PhaseStarted):
            self._phase, self._total, self._done = message.phase, message.total, 0
        else:
            netns, self._done = message.netns, message.count
        bar = f"  {progress_bar(self._done, self._total)}" if self._total else ""
        self._line.draw(f"building {self._lab}: {self._phase}{bar}  {paint(netns, MUTED)}")

    def built(self, message: LabBuilt) -> None:
        """Print the summary of a built lab, and the reasons for choices the agent made."""
        self._line.clear()
        nodes = f"{self._nodes} node{'s' if self._nodes != 1 else ''}"
        echo(
            f"{paint('✓', GOOD)} built {message.namespaces} namespaces: "
            f"the fabric, {nodes}, pods and external hosts"
        )
        for reason in message.reasons:
            echo(f"  {paint(reason, MUTED)}")

    def stop(self) -> None:
        self._line.clear()


class WaitProgress:
    """Progress of waiting for pods and Jobs."""

    def __init__(self) -> None:
        self._line = LiveLine()

    def update(self, state: JsonObject) -> None:
        """Show the number of ready pods and the first names of those the lab waits for."""
        waiting = [
            *state["waiting"],
            *(f"Job {job['job']}" for job in state["jobs"] if job["state"] == "waiting"),
        ]
        names = ", ".join(waiting[:3]) + (" …" if len(waiting) > 3 else "")
        if state["total"]:
            bar = progress_bar(state["ready"], state["total"])
            self._line.draw(f"pods ready: {bar}  {paint(names, MUTED)}")

    def stop(self) -> None:
        self._line.clear()
