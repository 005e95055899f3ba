"""kubenetlab with a controller that returns an invalid object as long as a file exists.

Run as: faulty_controller.py FILE COMMAND…

All processes of a lab are forks of the `up` that creates it, so its agents have the faulty
controller.
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
from kubenetlab.controllers.workloads import deployments

_real_reconcile = deployments.reconcile


def reconcile(cluster: Cluster, now: float) -> Iterator[Any]:
    """Set the replicas of every Deployment to a value that the store rejects."""
    yield from _real_reconcile(cluster, now)
    if Path(_flag).exists():
        for obj in cluster.all(Deployment):
            if obj.spec.replicas is not True:
                yield structs.replace(obj, spec=structs.replace(obj.spec, replicas=True))


if __name__ == "__main__":
    _flag = sys.argv.pop(1)
    deployments.reconcile = reconcile
    main()
