"""Runs of jobs: claims, leases, heartbeats, one thread per job, cleanup.

Knows when a job may run, must end or is tried again. Knows nothing of what a job does.
"""
