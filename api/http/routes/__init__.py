"""The routes, one module per thing they show. Each turns a request into calls of the application."""
