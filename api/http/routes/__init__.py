"""Routes, one module per resource: requests become calls of the application."""
