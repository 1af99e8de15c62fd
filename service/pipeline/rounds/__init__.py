"""Rounds before the search: reweighing of the matrices, then descent.

Both measure slopes of the loss on calibration records, a part of them in each round. Knows nothing of the search.
"""
