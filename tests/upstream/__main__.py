"""Compare CNI modes with upstream's programs: `scripts/upstream NAME…`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from tests.labs.lab import Lab
from tests.upstream import flannel, plugins
from tests.upstream.builder import NotAvailableError, build, is_cached
from tests.upstream.comparison import Findings
from tests.upstream.programs import CNI_PLUGINS, FLANNEL, MODULES

Comparison = Callable[[Lab, Lab, Path], Findings]
DIFFERENT: Final = 1
SKIPPED: Final = 77
"""Exit status of a test that was skipped, as in automake."""
_COMPARISONS: Final[Mapping[str, Mapping[str, Comparison]]] = {
    FLANNEL.name: {name: partial(flannel.compare, case) for name, case in flannel.CASES.items()},
    CNI_PLUGINS.name: {
        name: partial(plugins.compare, case) for name, case in plugins.CASES.items()
    },
}
"""Program → comparisons by name."""


def main(names: list[str]) -> int:
    """Compare the named programs; list all without names. Return the exit status."""
    if unknown := [name for name in names if name not in MODULES]:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(MODULES)}", file=sys.stderr)
        return 2
    if not names:
        for module in MODULES.values():
            state = "in the cache" if is_cached(module) else "not built"
            print(f"{module.name:<12} {module.version:<10} {state:<13} {module.path}")
        return 0
    try:
        return max([_compare(name) for name in names])
    except NotAvailableError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return SKIPPED


def _compare(name: str) -> int:
    print(f"{name}: {build(MODULES[name])}")
    status = 0
    for title, compare in _COMPARISONS[name].items():
        ours, theirs = (Lab(f"upstream-{os.getpid()}-{end}") for end in ("lab", "real"))
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = compare(ours, theirs, Path(folder))
            finally:
                for lab in (ours, theirs):
                    lab.run("down", status=None)
        _print(f"{name} {title}", result)
        status = max(status, DIFFERENT if result.unnamed else 0)
    return status


def _print(title: str, result: Findings) -> None:
    """Print the differences: `-` is only in the lab, `+` is only made by the program."""
    named = f"{len(result.named)} named in the manual"
    print(f"{'✗' if result.unnamed else '✓'} {title}: {len(result.unnamed)} differences, {named}")
    for difference in result.unnamed:
        print(f"    {difference}")
    for name in result.named:
        print(f"    named: {name.manual}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
