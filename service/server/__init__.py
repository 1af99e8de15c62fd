"""Server settings, keys, logs, metrics, traces, capabilities, artifacts.

Read by the API and by operators. Nothing here runs a job.
"""
