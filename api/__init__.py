"""HTTP and its clients: server, Python client, command line, page, reference.

Knows how to ask the service and how to answer people and programs. Knows nothing of how a job is done, and
never imports torch, Ray or DEAP by itself.
"""
