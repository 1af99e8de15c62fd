"""Values that all rooms pass around: plans, scores, metrics.

Plain values and numpy: no torch, Ray or pydantic, so that they travel between processes.
"""
