"""The bodies of the REST API, as pydantic models: what OpenAPI shows and clients may rely on."""
