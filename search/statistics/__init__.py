"""Intervals, p-values and sequential tests from scores on some records.

Takes arrays of numbers. Knows nothing of genomes, sizes or searches.
"""
