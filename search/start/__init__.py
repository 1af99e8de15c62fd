"""Genomes that a search starts from, and the rounds that correct them before it.

Computes with energies and with slopes of the loss that were measured elsewhere. Scores nothing and breeds nothing.
"""
