"""Numbers of examples of property tests, which Hypothesis chooses.

HYPOTHESIS_PROFILE names the profile: "quick" (the default) has a tenth of the examples that
"thorough" has, both the same ones in every run; "explore" searches for new examples.

Modules of property tests import this; the others start without Hypothesis, which takes long to
import.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

_PROFILE: Final = os.environ.get("HYPOTHESIS_PROFILE", "quick")
_FACTORS: Final = {"quick": 0.1, "thorough": 1.0, "explore": 20.0}
_DEFAULT_EXAMPLES: Final = 100
_LEAST_WITH_PACKETS: Final = 10 if os.environ.get("KUBENETLAB_VM") else 30
"""Minimum number of examples of a test that sends packets; the emulated machine is slow."""


def examples(number: int) -> int:
    """Return the number of examples for a test that has `number` in the profile "thorough"."""
    return max(1, round(number * _FACTORS[_PROFILE]))


def examples_with_packets(number: int) -> int:
    """Return the number of examples for a test that compares packets with the evaluator."""
    return max(_LEAST_WITH_PACKETS, examples(number))


settings.register_profile(
    _PROFILE,
    deadline=None,
    derandomize=_PROFILE != "explore",
    max_examples=examples(_DEFAULT_EXAMPLES),
)
settings.load_profile(_PROFILE)
