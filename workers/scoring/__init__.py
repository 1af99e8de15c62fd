"""Scores of candidates, in a model that stays loaded.

Switches ranks, runs batches, reads answers. Knows no Ray, and not which candidate is better.
"""
