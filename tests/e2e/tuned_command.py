"""The command with other constants than the policy's, for small models: they are the first argument, as JSON.

`policy` and `effort` are those of a document, see `tests/benchmarks/tuning.py`; `batch_tokens` are those of a forward
pass on the processor; `checks` are limits of `workers.machine.limited`.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from tuning import tune

from ranksieve.api.cli.main import main
from ranksieve.service.spec.resources import BATCH_TOKENS
from ranksieve.workers.machine import limited

if __name__ == "__main__":
    constants = json.loads(sys.argv.pop(1))
    BATCH_TOKENS["cpu"] = constants.get("batch_tokens", BATCH_TOKENS["cpu"])
    for name, limit in constants.get("checks", {}).items():
        setattr(limited, name, limit)
    tune(constants)
    main()
