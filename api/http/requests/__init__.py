"""Reading of requests: bodies in JSON or YAML, and what is refused unread."""
