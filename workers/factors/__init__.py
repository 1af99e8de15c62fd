"""Nested low-rank factors of every matrix, and their improvements.

Any rank is a slice of these factors. Knows nothing of searches or actors; generators let callers report progress and
stop.
"""
