"""From files of records to token rows: read, render, divide, tokenize, check.

Errors name the field of the job file and the record. Knows nothing of weights.
"""
