"""Rolling updates: how many pods the new ReplicaSet and the old ones may have at this moment. Numbers in, numbers out.

At most `replicas + max_surge` pods are asked for at any time, and nothing that serves goes while fewer than
`replicas - max_unavailable` do. Old pods that do not serve go first: nobody misses them.
Source: k8s.io/kubernetes pkg/controller/deployment/{rolling.go,util/deployment_util.go} (NewRSNewReplicas, ResolveFenceposts).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class RolloutShare(Struct, frozen=True):
    """One ReplicaSet's part: the pods it is asked for, and those that serve."""

    replicas: int
    available: int = 0


def limits(replicas: int, max_surge: int | str, max_unavailable: int | str) -> tuple[int, int]:
    """(max surge, max unavailable) as numbers of pods: a percentage of the first is rounded up, of the second down; never both 0."""
    surge, unavailable = (
        _pods(max_surge, replicas, up=True),
        _pods(max_unavailable, replicas, up=False),
    )
    return surge, unavailable if surge or unavailable else 1


def new_share(replicas: int, surge: int, new: RolloutShare, old: Sequence[RolloutShare]) -> int:
    """How many pods the new ReplicaSet may have: all that are wanted, as far as the surge allows beside the old ones."""
    if new.replicas >= replicas:
        return replicas
    room = replicas + surge - new.replicas - sum(share.replicas for share in old)
    return min(replicas, new.replicas + max(0, room))


def old_shares(
    replicas: int, unavailable: int, new: RolloutShare, old: Sequence[RolloutShare]
) -> list[int]:
    """How many pods each of the old ReplicaSets, oldest first, may keep."""
    least = replicas - unavailable
    total = new.replicas + sum(share.replicas for share in old)
    spare = total - least - (new.replicas - new.available)
    kept = [share.replicas for share in old]
    for index, share in enumerate(old):  # those that do not serve
        gone = min(max(0, spare), share.replicas - min(share.available, share.replicas))
        kept[index] -= gone
        spare -= gone
    serving = new.available + sum(share.available for share in old)
    spare = min(spare, serving - least)
    for index in range(len(old)):
        gone = min(max(0, spare), kept[index])
        kept[index] -= gone
        spare -= gone
    return kept


def _pods(value: int | str, replicas: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    percent = int(value.rstrip("%")) * replicas
    return -(-percent // 100) if up else percent // 100
