"""kubenetlab with a controller that makes a mistake as long as a file is there.

Run as: mistaken.py FILE COMMAND…

All processes of a lab are forks of the `up` that makes it: the mistake is made in its agents.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import structs

from kubenetlab.api.apps import Deployment
from kubenetlab.api.store import Cluster
from kubenetlab.cli import main
from kubenetlab.controllers import deployments

_right = deployments.reconcile


def reconcile(cluster: Cluster, now: float) -> Iterator[Any]:
    """Give every Deployment a number of replicas that no store can hold."""
    yield from _right(cluster, now)
    if Path(_flag).exists():
        for obj in cluster.all(Deployment):
            if obj.spec.replicas is not True:
                yield structs.replace(obj, spec=structs.replace(obj.spec, replicas=True))


if __name__ == "__main__":
    _flag = sys.argv.pop(1)
    deployments.reconcile = reconcile
    main()
