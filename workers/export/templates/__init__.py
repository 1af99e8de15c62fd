"""Templates of an export's model card and of its one Python file."""
