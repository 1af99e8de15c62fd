"""Exported model: write, load back, verify, and score by `ranksieve evaluate`.

Knows how `transformers` loads a folder. Knows nothing of how its ranks were chosen.
"""
