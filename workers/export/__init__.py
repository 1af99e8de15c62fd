"""Exported models: write, load back, verify, and score for `ranksieve evaluate`.

Knows how `transformers` loads a folder. Knows nothing of how its ranks were chosen.
"""
