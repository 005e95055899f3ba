"""Identity of a pod, in CNI modes whose programs know identities: its number and its labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kubenetlab.cli.describe.fields import print_values
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.inspection import IdentityTable


def identities(client: Client) -> IdentityTable:
    """Return the identities of the lab; empty in modes without them."""
    from kubenetlab.lab.client import ApiError

    try:
        table: IdentityTable = client.get(f"{LAB_API}/identities")
    except ApiError as error:
        if error.code != 404:  # the agent is older than this command
            raise
        return {"cni": "", "modes": [], "identities": {}, "pods": {}}
    return table


def print_identities(client: Client, pods: Iterable[str]) -> None:
    """Print number and labels of the identities of pods, given as `namespace/name`.

    Print nothing in modes without identities, and for pods in the network of their node.
    """
    table = identities(client)
    numbers = dict.fromkeys(table["pods"][pod] for pod in pods if pod in table["pods"])
    for number in numbers:
        labels = table["identities"][str(number)]
        print_values("Identity", [str(number), *(label.removeprefix("k8s:") for label in labels)])
