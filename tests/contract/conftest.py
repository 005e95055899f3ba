"""The same questions to everything of a kind that is found on disk."""

import tests.examples  # noqa: F401
