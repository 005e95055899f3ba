"""Netlink sockets: requests, dumps and notifications."""
