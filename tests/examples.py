"""Profiles of Hypothesis: the same examples in every run, or new ones.

HYPOTHESIS_PROFILE=explore searches for new examples.

Folders whose tests have examples import this in their conftest.py; the others start without
Hypothesis, which takes long to import.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
