"""A lab whose processes can be refused a call, or killed at one, while it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.clusters import replaced
from tests.labs.faulty import Plan, run_faulty
from tests.labs.lab import Lab, Ran, wait_for
from tests.labs.test_life import MANIFEST

MORE = (
    replaced(MANIFEST, ("replicas: 4", "replicas: 6"))
    + """\
---
apiVersion: v1
kind: Service
metadata: {name: more}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 8080, targetPort: http}]}
"""
)
"""More pods, and a Service."""


class Changing(Struct, frozen=True):
    """The lab, and what is to become of its calls to Linux."""

    lab: Lab
    plan: Plan

    def up(self) -> None:
        self.plan.set(0)
        assert (
            run_faulty(self.plan, "up", "--lab", self.lab.name, "-f", "-", given=MANIFEST).status
            == 0
        )

    def change(self) -> None:
        """There and back, each until it is done: what runs stays as it is, and what was added
        leaves nothing.

        A change that cannot be written down is refused as a whole, and made when it is asked for
        again.
        """
        before = self._numbers
        self._until_done(lambda status: self.lab.apply(MORE, status=status))
        wait_for(lambda: not self.lab.faults, f"the lab to be whole after {self.plan.refused}")
        largest = self._numbers
        assert before.items() <= largest.items(), self.plan.refused
        self._until_done(lambda status: self.lab.run("delete", "service", "more", status=status))
        self._until_done(lambda status: self.lab.apply(MANIFEST, status=status))
        wait_for(lambda: not self.lab.faults, f"the lab to be whole after {self.plan.refused}")
        wait_for(
            lambda: len(self._numbers) == len(before),
            f"as many as there were after {self.plan.refused}",
        )
        assert self._numbers.items() <= largest.items(), self.plan.refused
        assert len(list(Path("/run/netns").glob(f"{self.lab.name}_*"))) == len(
            self.lab.seen_names_alive()
        )

    def _until_done(self, ask: Callable[[int | None], Ran]) -> None:
        if "store cannot be written" in ask(None).err:
            ask(0)

    @property
    def _numbers(self) -> dict[str, Any]:
        """Processes, addresses and links of what runs."""
        seen = self.lab.seen
        pods = {
            pod["name"]: (pod["pid"], pod["addresses"], pod["host_ifname"]) for pod in seen["pods"]
        }
        return {**pods, **{node["name"]: node["pid"] for node in seen["nodes"]}}
