"""The machine: devices, limits of containers, errors that are not the job's fault.

Asked when work begins, never at import.
"""
