"""`Source`: a pod, a node or an external host from which a test sends packets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence

import kubenetlab  # the names of this package are imported at their first use
from kubenetlab.library.argument_checks import Family, Protocol
from kubenetlab.library.reachability import HttpResult, Reachability


class Source:
    """Pod, node or external host of a lab, as `Lab.pod`, `Lab.node` and `Lab.external` return it.

    Names without a namespace are those of the source's namespace.
    """

    def __init__(self, lab: kubenetlab.Lab, target: str, namespace: str | None = None) -> None:
        """Name a source; each method looks it up.

        target: such as `client`, `shop/web`, `deploy:web`, `node:worker` or `ext:client`.
        namespace: namespace of names without one; by default that of the target, or `default`.
        """
        self.lab = lab
        """The lab."""
        self.target = target
        """Name of the source, as on the command line."""
        *own, _ = target.rpartition(":")[2].split("/")
        self.namespace = namespace or "".join(own) or None
        """Namespace of names without one; None for `default`."""

    def __repr__(self) -> str:
        return f"{self.lab!r}.{self.target}"

    def can_reach(
        self,
        destination: str,
        port: int | None = None,
        *,
        protocol: Protocol = "TCP",
        family: Family | None = None,
        allow_unmodelled: Iterable[str] = (),
        deadline_s: float = 1.0,
    ) -> Reachability:
        """Send one probe to a destination. The result is true if it answered.

        destination: such as `svc:web`, `deploy:web`, `node:worker`, `ext:client` or an address.
        port: destination port. Without it, a Service is probed at its first port, and any other
            destination is pinged.
        allow_unmodelled: kinds that the lab does not enforce, and that do not matter.
        deadline_s: time to wait for the answer, in seconds.
        Raises UsageError for a source or destination that does not exist.
        """
        return Reachability(
            self.lab.ping(
                self.target,
                destination,
                port=port,
                protocol=protocol,
                family=family,
                namespace=self.namespace,
                allow_unmodelled=allow_unmodelled,
                deadline_s=deadline_s,
            )
        )

    def http(
        self,
        destination: str,
        path: str = "/",
        *,
        port: int | None = None,
        family: Family | None = None,
        allow_unmodelled: Iterable[str] = (),
        deadline_s: float = 1.0,
    ) -> HttpResult:
        """Send a GET request. The result is true if it was answered with a status below 400.

        destination, allow_unmodelled, deadline_s: see `can_reach`.
        """
        return HttpResult(
            self.lab.ping(
                self.target,
                destination,
                port=port,
                path=path,
                family=family,
                namespace=self.namespace,
                allow_unmodelled=allow_unmodelled,
                deadline_s=deadline_s,
            )
        )

    def exec(
        self,
        command: Sequence[str],
        *,
        container: str | None = None,
        stdin: str = "",
        timeout_s: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine inside the source; see `Lab.exec`."""
        return self.lab.exec(
            self.target,
            command,
            container=container,
            namespace=self.namespace,
            stdin=stdin,
            timeout_s=timeout_s,
        )
