"""Choose a rank for every matrix of a model.

Pure: standard library, numpy, and DEAP in one module. Knows matrices as shapes, energies and prices; knows no model,
record, tensor or process. Scores arrive from outside.
"""
