"""Genetic operators: each takes an explicit rng and returns a new genome."""
