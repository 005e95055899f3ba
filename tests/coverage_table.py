"""Print the coverage of pure code by package.

`python -m tests.coverage_table FILE`, with coverage's JSON report.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

MEASURED = ("api", "controllers", "datapath", "diagnostics", "hoststate", "observe", "programs")
"""Packages that tests of pure code cover.

Labs run kernel, lab and cli, in processes that end by SIGKILL.
"""


def table(report: Any) -> list[str]:
    """Return one line for each package of a report: covered statements, statements, share."""
    covered: Counter[str] = Counter()
    statements: Counter[str] = Counter()
    for file, entry in report["files"].items():
        package = Path(file).parts[1]
        if package in MEASURED:
            covered[package] += entry["summary"]["covered_lines"]
            statements[package] += entry["summary"]["num_statements"]
    rows = [(package, covered[package], statements[package]) for package in sorted(statements)]
    rows.append(("all of these", covered.total(), statements.total()))
    return [
        f"{package:14} {part:6,} of {whole:6,} statements  {100 * part / whole:5.1f} %"
        for package, part, whole in rows
    ]


if __name__ == "__main__":
    print("coverage by unit, contract and golden tests:")
    print("\n".join(table(json.loads(Path(sys.argv[1]).read_text()))))
