"""Python client: the REST API as methods, event streams that survive disconnects.

Speaks HTTP only. Knows nothing of the service behind it.
"""
