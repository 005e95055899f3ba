"""Processes: their identity, limits, privileges, and what they inherit."""
