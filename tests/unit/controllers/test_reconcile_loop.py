"""The loop that runs the controllers until none of them changes the store."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from kubenetlab import controllers
from kubenetlab.controllers.kubelet import kubelet
from kubenetlab.controllers.services import endpoints, endpointslices
from kubenetlab.controllers.states import ControllerStates
from tests.clusters import NOW, deployment, observed, service, store, web_pods


@pytest.mark.parametrize(
    "module", [kubelet, endpointslices, endpoints], ids=lambda module: module.__name__
)
def test_a_controller_that_converges_in_one_pass_does_not_run_for_its_own_changes(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these controllers runs once when a pod becomes ready."""
    cluster, states = controllers.run(
        store(deployment(replicas=1) + service()), ControllerStates(), NOW
    )
    reconcile = module.reconcile
    changes_per_run: list[int] = []

    def recording(*arguments: Any, **options: Any) -> Iterator[Any]:
        changes = list(reconcile(*arguments, **options))
        changes_per_run.append(len(changes))
        return iter(changes)

    monkeypatch.setattr(module, "reconcile", recording)
    controllers.run(cluster.with_changes(map(observed, web_pods(cluster))), states, NOW)
    assert len(changes_per_run) == 1
    assert changes_per_run[0] > 0
