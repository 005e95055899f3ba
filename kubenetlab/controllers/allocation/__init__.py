"""Allocation of addresses, node ports and pod ranges, as pure functions."""
