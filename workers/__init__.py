"""Work on models and records: check, calibrate, factor, score, export, estimate.

Takes plain values (`types.plan`) and returns plain values or folders. Knows no job, database or HTTP, and not
what a search is for.
"""

import os

# Ray reads it when it is imported. Its handler would abort a server 3 seconds after SIGTERM, whatever is to end yet.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")

# transformers reads it. Where the package `kernels` is installed, it would run code of a hub in place of a model's own.
os.environ.setdefault("USE_HUB_KERNELS", "NO")
