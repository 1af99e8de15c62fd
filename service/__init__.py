"""Life of a job: request, history, owner, run and result.

Holds no tensors and starts no actors; `workers` do the work and `search` chooses. Knows no HTTP and no
command line.
"""
