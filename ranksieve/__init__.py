"""How small can a language model be and still do your task? Packages: `api`, `service`, `workers`, `search`."""
