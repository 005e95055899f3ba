"""Build programs of upstream: `scripts/upstream NAME…`."""

from __future__ import annotations

import sys

from tests.upstream.builder import NotAvailableError, build, is_cached
from tests.upstream.programs import MODULES

SKIPPED: int = 77
"""Exit status of a test that was skipped, as in automake."""


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in MODULES]:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(MODULES)}", file=sys.stderr)
        return 2
    if not names:
        for module in MODULES.values():
            state = "in the cache" if is_cached(module) else "not built"
            print(f"{module.name:<12} {module.version:<10} {state:<13} {module.path}")
        return 0
    for name in names:
        try:
            print(f"{name}: {build(MODULES[name])}")
        except NotAvailableError as error:
            print(f"skipped: {name}: {error}", file=sys.stderr)
            return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
