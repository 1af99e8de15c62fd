"""One job from its spec to its exported model; the estimate and `evaluate`.

Asks the cluster for phases and scores, and the search for genomes. Knows nothing of other jobs, owners or the
database: what happens is written to a `JobLog`.
"""
