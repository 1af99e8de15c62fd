"""Ray: session, phases as tasks, scoring actors, dispatch, retries, shares.

Knows how to get an answer out of processes that die. Knows nothing of tensors, records or what a score means.
"""
