"""Benchmarks of whole labs against baselines, as tables for docs/performance.md."""
