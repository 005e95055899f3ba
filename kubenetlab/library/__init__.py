"""Labs as Python objects: `kubenetlab.Lab` and the results of its methods.

Each method runs a command in a process of its own: a process that has joined a pod's network
namespace cannot always leave it, and a lab must not be a fork of a program with threads. These
processes are forks of a command server, which has imported all modules (command_server.py).
"""
