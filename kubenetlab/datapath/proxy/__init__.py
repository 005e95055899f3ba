"""kube-proxy modes: translation of Services to rules, one file each.

services.py and local_traffic.py hold what the modes share; README.md has the paths of packets.
"""
