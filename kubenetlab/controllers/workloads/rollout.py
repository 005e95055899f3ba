"""Rolling updates: sizes of the new and the old ReplicaSets at each step, as pure arithmetic.

At most `replicas + max_surge` pods are requested at any time, and no available pod is removed
while fewer than `replicas - max_unavailable` pods are available. Old pods that are not available
are removed first.
Source: k8s.io/kubernetes pkg/controller/deployment/{rolling.go,util/deployment_util.go}
(NewRSNewReplicas, ResolveFenceposts).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class RolloutShare(Struct, frozen=True):
    """One ReplicaSet's share of a rollout: requested and available pods."""

    replicas: int
    available: int = 0


def limits(replicas: int, max_surge: int | str, max_unavailable: int | str) -> tuple[int, int]:
    """Return (max surge, max unavailable) as numbers of pods.

    Percentages are rounded up for max surge and down for max unavailable. When both are 0, max
    unavailable is 1.
    """
    surge, unavailable = (
        _pods(max_surge, replicas, up=True),
        _pods(max_unavailable, replicas, up=False),
    )
    return surge, unavailable if surge or unavailable else 1


def new_share(replicas: int, surge: int, new: RolloutShare, old: Sequence[RolloutShare]) -> int:
    """Return the number of pods that the new ReplicaSet may have.

    It grows towards `replicas` as far as the surge leaves room beside the old ReplicaSets.
    """
    if new.replicas >= replicas:
        return replicas
    capacity = replicas + surge - new.replicas - sum(share.replicas for share in old)
    return min(replicas, new.replicas + max(0, capacity))


def old_shares(
    replicas: int, unavailable: int, new: RolloutShare, old: Sequence[RolloutShare]
) -> list[int]:
    """Return the numbers of pods that the old ReplicaSets, oldest first, may keep."""
    min_available = replicas - unavailable
    total = new.replicas + sum(share.replicas for share in old)
    removable = total - min_available - (new.replicas - new.available)
    kept = [share.replicas for share in old]
    for index, share in enumerate(old):  # unavailable pods first
        removed = min(max(0, removable), share.replicas - min(share.available, share.replicas))
        kept[index] -= removed
        removable -= removed
    available = new.available + sum(share.available for share in old)
    removable = min(removable, available - min_available)
    for index in range(len(old)):
        removed = min(max(0, removable), kept[index])
        kept[index] -= removed
        removable -= removed
    return kept


def _pods(value: int | str, replicas: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    percent = int(value.rstrip("%")) * replicas
    return -(-percent // 100) if up else percent // 100
