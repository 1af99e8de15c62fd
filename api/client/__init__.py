"""Python client: the REST API as methods, event streams that survive disconnects.

Speaks HTTP alone; knows nothing of the service behind it.
"""
