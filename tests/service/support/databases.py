"""The databases that a test runs on: SQLite, and PostgreSQL too where it differs."""

import pytest

ON_EACH = pytest.mark.parametrize("make_database", ["sqlite", "postgresql"], indirect=True)
"""For locks, types, sorting, texts and transactions; `test_lifecycle` plays the whole contract on both."""
