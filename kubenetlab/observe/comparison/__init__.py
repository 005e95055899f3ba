"""Measurements of one pod network, for the comparison of CNI modes."""
