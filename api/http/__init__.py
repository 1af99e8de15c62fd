"""HTTP application around the service: routes, keys, limits, errors, docs.

Turns requests into calls and exceptions into problem documents. Runs no job.
"""
