"""Cached folders on disk: keyed by content, kept to a size, leased while in use.

Entries appear in one rename. Knows nothing of what is in them.
"""
