"""Show what commands report: tables, progress, charts and printable text.

Reads results and events as plain values. Starts and asks nothing.
"""
