"""Data of a task: read, render, divide, tokenize and check records.

Errors name the field of the job file and the record. Knows nothing of weights.
"""
