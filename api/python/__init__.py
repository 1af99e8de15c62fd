"""`ranksieve.sieve`: one whole job from Python, in this process or on a server.

Puts a job file together from arguments and runs it as the command line does. Knows nothing of how a job is done.
"""
