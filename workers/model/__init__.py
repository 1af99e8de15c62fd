"""Dense models: sources, prunable matrices, experts, devices, any rank.

Finds matrices by structure, never by the name of an architecture. Runs no code that comes with a model and
unpickles nothing.
"""
