"""How long things take, and beside what: whole labs timed in turn with baselines, as tables for docs/performance.md."""
