"""Seeing it: what a lab is and does, without changing it."""
