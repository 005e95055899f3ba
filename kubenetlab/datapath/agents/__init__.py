"""Agents of CNI plugins on nodes: what they know, and how their health is checked."""
