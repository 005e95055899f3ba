"""Network policies: policy engines, one module each, and the model that they share.

In the model (members.py, rules.py) selectors are groups of pods, and rules have no selectors.
"""
