"""Nested low-rank factors of every matrix, and what makes them better.

Any rank is a slice of what is made here. Knows nothing of searches or actors; generators let their callers
report progress and stop.
"""
