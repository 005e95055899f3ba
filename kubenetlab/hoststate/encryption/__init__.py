"""Encryption between nodes: keys and peers of WireGuard, and ESP by XFRM."""
