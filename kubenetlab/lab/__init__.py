"""Processes of a running lab, and the ways to reach them.

up ──► init (PID 1) ─┬─ agent        controllers, plan, links, API
                     ├─ node agents  rules and probes
                     ├─ workers      sockets of the built-in programs
                     ├─ coredns …    processes that live in pods
                     └─ pause × N    one per node, pod and external host
"""
