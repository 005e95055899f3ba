"""Run failed tests once more, one after another.

    python -m tests.failed_again FOLDER...

All tests together load a machine with two processors for half an hour, and a few of them need an
answer in time. A test that passes when it is repeated is unstable: its name is printed, because
that is a bug of the test or of the project. If many tests have failed, none is repeated.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pytest

LIMIT: Final = 5
"""Largest number of failed tests that are repeated."""
FAILED_TESTS: Final = Path(".pytest_cache", "v", "cache", "lastfailed")
_GROUP: Final = re.compile(r"@[^\[\]]*$")
"""Group that pytest-xdist appends to the name of a test."""


def names_of(failed: Iterable[str], folders: Sequence[str]) -> list[str]:
    """Return the names of the failed tests of these folders, without their groups."""
    names = {_GROUP.sub("", name) for name in failed}
    prefixes = tuple(f"{folder.rstrip('/')}/" for folder in folders)
    return sorted(name for name in names if name.startswith(prefixes))


def main(folders: Sequence[str]) -> int:
    """Repeat the failed tests of these folders; return 0 if all of them pass."""
    failed = json.loads(FAILED_TESTS.read_text()) if FAILED_TESTS.exists() else {}
    names = names_of(failed, folders)
    if not 0 < len(names) <= LIMIT:
        return 1
    print(f"\nrepeated alone: {len(names)} failed tests", flush=True)
    status = int(pytest.main(["-n", "0", *names]))
    if status == 0:
        print("\nunstable: passed only when repeated:", *names, sep="\n  ", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
