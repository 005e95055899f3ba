"""Comparison of CNI modes with the programs that upstream publishes."""
