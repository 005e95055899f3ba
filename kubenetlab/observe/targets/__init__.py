"""Targets: how commands and tables address pods, Services, nodes and hosts, and what they find."""
