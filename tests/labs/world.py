"""A running lab as tests of flows look at it: everything in it by a short name, in one IP version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.cli.input.options import parse_mode
from kubenetlab.datapath import modes
from kubenetlab.errors import RequirementError
from kubenetlab.lab.requirements import require_modes
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.traffic_client import Answer, Target


def in_document(proxy: str) -> str:
    """A mode as the Cluster document has it."""
    return json.dumps(parse_mode(proxy))


def _lacking(proxy: str) -> str:
    """What this machine lacks for a mode of kube-proxy, by the same trials as `up` and doctor;
    nothing where it can be had.
    """
    try:
        require_modes(ClusterConfig(networking=Networking(kube_proxy_mode=parse_mode(proxy))))
    except RequirementError as error:
        return str(error)
    return ""


_SERVING = (
    *(name for name in modes.known("proxy") if modes.load("proxy", name, {}).serves),
    "nftables,layout=fast",
)
LACKING = {proxy: _lacking(proxy) for proxy in _SERVING}
"""Mode of kube-proxy, as the command line names it → what this machine lacks for it."""
PROXIES = tuple(proxy for proxy, lacking in LACKING.items() if not lacking)
"""Those that can be had here: what a test of Services says holds in each."""


class World:
    """A running lab, and everything in it by a short name, as it is in one IP version."""

    def __init__(self, lab: Lab, version: int) -> None:
        self.lab = lab
        self.version = version
        seen = lab.seen
        self.seen = seen
        self.places: dict[str, Any] = {
            pod["name"]: pod for pod in seen["pods"] if pod["namespace"] == "default"
        }
        self.places |= {f"node:{node['name']}": node for node in seen["nodes"]}
        self.places |= {f"ext:{host['name']}": host for host in seen["external"]}
        self.services = {
            service["name"]: self._of_version(service["cluster_ips"])
            for service in seen["services"]
        }
        self.outside = {
            service["name"]: self._of_version(service["load_balancer_ips"])
            for service in seen["services"]
        }
        self.localhost = "127.0.0.1" if version == 4 else "::1"

    def address(self, name: str) -> str:
        return self._of_version(self.places[name]["addresses"])

    def _of_version(self, addresses: list[str]) -> str:
        return next(
            (address for address in addresses if (":" in address) == (self.version == 6)), ""
        )

    def node_of(self, pod: str) -> str:
        return self.address(f"node:{self.places[pod]['node']}")

    def ask(self, source: str, *targets: Target) -> list[Answer]:
        return self.lab.ask(self.places[source], *targets)

    def ask_from(self, sources: Sequence[str], *targets: Target) -> list[list[Answer]]:
        """Return the answers to each of several sources, which all ask the same at the same time:
        silence takes long.
        """
        return self.ask_each(*((source, targets) for source in sources))

    def ask_each(self, *questions: tuple[str, Sequence[Target]]) -> list[list[Answer]]:
        """Return the answers to several sources, which all ask at the same time."""
        return self.lab.ask_each(*((self.places[source], targets) for source, targets in questions))


class Labs:
    """One lab at a time; the next one that asks for the same gets the same."""

    def __init__(self, manifest: Callable[..., str]) -> None:
        self._manifest = manifest
        self._what: tuple[str, ...] = ()
        self._life: Iterator[Lab] = iter(())
        self._lab: Lab | None = None

    def of(self, *what: str) -> Lab:
        """The lab of a manifest made from these words."""
        if self._lab is None or self._what != what:
            self.end()
            self._what, self._life = what, new_lab()
            self._lab = next(self._life)
            self._lab.up(self._manifest(*what))
        return self._lab

    def end(self) -> None:
        for _ in self._life:
            pass
