"""Search space: matrices, levels, prices, constraints and objectives.

Knows what a genome costs in parameters, bytes or time, and how to bring it under a budget. Knows nothing of
scores or of the order in which genomes are tried.
"""
