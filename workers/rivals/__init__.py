"""Rivals: what a user would pick instead, fitted to the same records.

Every rival is fitted to the calibration split. Its settings are chosen on the search split. The test split is scored
once. Knows nothing of low-rank factors, searches or jobs.
"""
