"""Forward passes: batches, likelihoods, written answers, loss, block by block.

Takes a model and token rows. Knows nothing of ranks or of where the rows come from.
"""
