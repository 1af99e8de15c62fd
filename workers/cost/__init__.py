"""Cost of a job: memory, disk and time by formula, latencies by measurement.

Computes from shapes and token counts, before any weight is loaded. Decides nothing.
"""
