"""Kinds of network policies, which decide about connections of pods."""
