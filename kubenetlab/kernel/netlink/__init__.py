"""Netlink sockets: requests, dumps and notifications of the kernel."""
