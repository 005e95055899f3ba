"""Pure code, by plain values and by examples."""

import tests.examples  # noqa: F401
