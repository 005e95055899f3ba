"""The evaluator decides like Cyclonus, which tests the network policies of CNI plugins.

The operator NotIn is left out of the worlds: in Cyclonus it does not match a missing label.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.labs.policy_judges import (
    Document,
    Judge,
    assert_same_verdicts,
    is_comparable,
    network_policies,
    policy_judge,
)
from tests.policies import POLICIES, with_policies
from tests.upstream.programs import CYCLONUS


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with policy_judge(CYCLONUS, "cyclonus") as ask:
        yield ask


def test_verdicts_are_those_of_cyclonus(judge: Judge) -> None:
    """Random NetworkPolicies; pods and a host outside, in both IP versions; named ports, too."""

    @settings(max_examples=examples(1000), deadline=None)
    @given(policies=st.lists(POLICIES.filter(is_comparable), max_size=5))
    def check(policies: list[Document]) -> None:
        cluster = with_policies(policies)
        assert_same_verdicts(judge, cluster, {"Policies": network_policies(cluster, policies)})

    check()
