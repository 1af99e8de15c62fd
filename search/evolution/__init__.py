"""Genetic search by ask and tell: trials go out, outcomes come back in any order.

Breeds and archives genomes, and can be saved and continued as plain JSON. Knows nothing of how a trial is
scored, where, or by how many workers.
"""
