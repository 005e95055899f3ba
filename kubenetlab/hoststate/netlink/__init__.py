"""Netlink messages as bytes: the project's own codec, and pyroute2's message classes."""
