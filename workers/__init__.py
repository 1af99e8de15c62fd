import os

# Ray reads it when it is imported. Its handler would abort a server 3 seconds after SIGTERM, whatever is to end yet.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
