"""Renderers of the reference pages: each lays out what the code itself says, and has no sentence of its own."""
