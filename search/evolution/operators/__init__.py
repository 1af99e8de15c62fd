"""Genetic operators over genomes: every one takes an explicit rng and returns a new genome."""
