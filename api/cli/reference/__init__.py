"""Renderers of the reference pages; every sentence comes from the code itself."""
