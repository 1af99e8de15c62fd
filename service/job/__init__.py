"""The job as the service keeps it: states, events, changes, files, exports.

Plain values and files of one job's folder. Knows nothing of the database, of other jobs, or of how a job is done.
"""
