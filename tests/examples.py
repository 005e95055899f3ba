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


def examples(number: int) -> int:
    """Return the number of examples for a test that has `number` in the profile "thorough"."""
    return max(1, round(number * _FACTORS[_PROFILE]))


settings.register_profile(
    _PROFILE,
    deadline=None,
    derandomize=_PROFILE != "explore",
    max_examples=examples(_DEFAULT_EXAMPLES),
)
settings.load_profile(_PROFILE)
