"""Bodies of the REST API as pydantic models, which clients may rely on."""
