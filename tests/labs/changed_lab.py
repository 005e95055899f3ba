"""A lab that changes while its calls to Linux fail or its processes are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.clusters import replaced
from tests.labs.fault_injection import FaultPlan, run_with_faults
from tests.labs.lab import CommandResult, Lab, wait_for
from tests.labs.web_lab import MANIFEST

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
"""Additional pods and a Service."""


class ChangedLab(Struct, frozen=True):
    """The lab and the plan for its calls to Linux."""

    lab: Lab
    plan: FaultPlan

    def up(self) -> None:
        self.plan.set(0)
        assert (
            run_with_faults(
                self.plan, "up", "--lab", self.lab.name, "-f", "-", stdin=MANIFEST
            ).status
            == 0
        )

    def change_and_revert(self) -> None:
        """Apply more objects and remove them again, each until it succeeds.

        Running pods stay as they are, and added objects leave nothing behind. A change that cannot
        be stored is rejected as a whole, and is made when it is requested again.
        """
        before = self._identities
        self._until_done(lambda status: self.lab.apply(MORE, status=status))
        wait_for(lambda: not self.lab.problems, f"the lab to be whole after {self.plan.refused}")
        largest = self._identities
        assert before.items() <= largest.items(), self.plan.refused
        self._until_done(lambda status: self.lab.run("delete", "service", "more", status=status))
        self._until_done(lambda status: self.lab.apply(MANIFEST, status=status))
        wait_for(lambda: not self.lab.problems, f"the lab to be whole after {self.plan.refused}")
        wait_for(
            lambda: len(self._identities) == len(before),
            f"the former number of pods after {self.plan.refused}",
        )
        assert self._identities.items() <= largest.items(), self.plan.refused
        assert len(list(Path("/run/netns").glob(f"{self.lab.name}_*"))) == len(
            self.lab.live_netns_names()
        )

    def _until_done(self, request: Callable[[int | None], CommandResult]) -> None:
        if "store cannot be written" in request(None).err:
            request(0)

    @property
    def _identities(self) -> dict[str, Any]:
        """Processes, addresses and links of pods and nodes."""
        inspected = self.lab.inspected
        pods = {
            pod["name"]: (pod["pid"], pod["addresses"], pod["host_ifname"])
            for pod in inspected["pods"]
        }
        return {**pods, **{node["name"]: node["pid"] for node in inspected["nodes"]}}
