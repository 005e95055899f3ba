"""Kernel objects as values, one module for each kind.

Desired and observed state have the same types, so that they can be compared.
"""
