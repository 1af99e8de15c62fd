"""Genomes that a search starts from.

Computes with energies. Scores nothing and breeds nothing.
"""
