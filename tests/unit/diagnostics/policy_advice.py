"""Advice about policies in a lab with one pod, and the verdicts that it must not change."""

from __future__ import annotations

from kubenetlab.api.store import Cluster
from kubenetlab.diagnostics.model import ADVICE
from kubenetlab.observe.policies.evaluator import Evaluator
from tests.policies import TRAFFIC
from tests.tier_policies import parties_of
from tests.unit.diagnostics.test_diagnostics import diagnostics_of, main


def advice_in(nodes: str, documents: str) -> list[tuple[str, str, str]]:
    """Return (code, subject, message) of the advice in a lab with the pod `default/one`."""
    return [
        (each.code, each.subject, each.message)
        for each in diagnostics_of(main("") + documents, nodes)
        if each.code in ADVICE
    ]


def codes_in(nodes: str, documents: str) -> list[tuple[str, str]]:
    """Return (code, path) of the advice in a lab with the pod `default/one`."""
    return [(code, subject.partition(": ")[2]) for code, subject, _ in advice_in(nodes, documents)]


def verdicts(cluster: Cluster) -> list[bool]:
    """Return the verdict about each pair of parties and kind of traffic, in both IP versions."""
    evaluator = Evaluator(cluster)
    return [
        evaluator.verdict(source, destination, traffic).is_allowed
        for version in (4, 6)
        for source in parties_of(version)
        for destination in parties_of(version)
        if source.pod or source.node != destination.node
        for traffic in TRAFFIC
    ]
