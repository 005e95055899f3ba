"""CoreDNS: the cluster's DNS server.

It is a process of its own in its pod and answers from its own view of the API.
"""

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.programs import Ports, Setup

IS_PROCESS = True
"""Its sockets belong to a process inside the pod, not to the node's app worker."""

DNS_PORT, HEALTH_PORT, READY_PORT, METRICS_PORT = 53, 8080, 8181, 9153

READS_ARGUMENTS = True


def runs_until_stopped(container: Container) -> bool:
    """Return True unless the container has a command of its own."""
    return not container.command


def configure(container: Container, ports: Ports) -> Setup:
    served = (
        ListenPort("UDP", DNS_PORT),
        *(ListenPort("TCP", port) for port in (DNS_PORT, HEALTH_PORT, READY_PORT, METRICS_PORT)),
    )
    return Setup("coredns", {}, served)
