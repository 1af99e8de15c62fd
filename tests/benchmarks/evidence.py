"""Answer one question about all tasks: `evidence.py QUESTION` or `make evidence Q=QUESTION`.

    sizes      how small is the model that a job with the default settings returns, and what does it lose?
    transfer   what does a model that was sieved for one task do on another?
    bits       what do 8 and 4 bits cost these models?
    rivals     what would a user pick instead?

`sizes` runs whole jobs, `transfer` and `bits` take the models that it left in the data directory. Tasks are the job
files in `tasks`; `tasks/fetch.py FOLDER` gets their data. Every row is kept in the file of `--rows` as soon as it is
there, and what that file holds is not run again, so a run that was cut off goes on. Rows that are missing are named.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from types import MappingProxyType

import yaml
from evidence_rows import Key, Row, Rows, print_table

from ranksieve.service.pipeline.compare import compare_rivals
from ranksieve.service.pipeline.evaluation import evaluate_export
from ranksieve.service.policy import EFFORTS
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.export.quantized import quantize
from ranksieve.workers.model.loading import weight_bytes

HERE = Path(__file__).parent
RIVALS = ("tfidf", "probe", "first-blocks")
TASKS = ("movies", "products", "tweets", "editorials", "topics", "dates", "passages")


def main() -> None:
    arguments = _arguments()
    rows = Rows(arguments.rows)
    ask = QUESTIONS[arguments.question]
    ask(arguments, rows)


def _arguments() -> Namespace:
    options = ArgumentParser(description=__doc__)
    options.add_argument("question", choices=list(QUESTIONS))
    options.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--effort", default="normal", choices=list(EFFORTS))
    options.add_argument(
        "--root", type=Path, default=Path(".ranksieve/evidence"), help="what fetch.py filled"
    )
    options.add_argument("--data-dir", type=Path, default=Path(".ranksieve"), help="jobs and caches")
    options.add_argument("--rows", type=Path, default=Path(".ranksieve/evidence.json"), help="stored rows")
    options.add_argument("--stored", action="store_true", help="run nothing, print what is stored")
    arguments = options.parse_args()
    arguments.root, arguments.data_dir = arguments.root.resolve(), arguments.data_dir.resolve()
    return arguments


def sizes(arguments: Namespace, rows: Rows) -> None:
    """Run a job for every task and seed."""
    wanted = [(task, str(seed), arguments.effort) for task, seed in product(arguments.tasks, arguments.seeds)]
    for key in wanted:
        _answer(arguments, rows, "sizes", key, lambda key: _job(arguments, *key))
    print_table(
        "| task | seed | effort | kept | MB | given | with offsets | tuned | sieved "
        "| drop, points (95 %) | speed | held | s |",
        [(key, rows.get("sizes", key)) for key in wanted],
        _size_cells,
    )


def _job(arguments: Namespace, task: str, seed: str, effort: str) -> Row:
    """Run the job of a task; return what its row holds."""
    document = _document(task) | {"seed": int(seed), "effort": effort}
    with NamedTemporaryFile("w", dir=arguments.root, suffix=".json", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        command = [str(Path(sys.executable).with_name("ranksieve")), "run", file.name, "--json"]
        command += ["--data-dir", str(arguments.data_dir), "--root", str(arguments.root)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=arguments.root)
    if done.returncode != 0:
        raise SystemExit(f"the job of {task}, seed {seed}, ended with {done.returncode}")
    result = json.loads(done.stdout)
    for name in ("front", "genome"):
        del result[name]
    for finalist in result["finalists"]:
        del finalist["genome"]
    result["artifact"] = Path(result["artifact"]).name
    spec = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return {"spec": spec, "result": result}


def _size_cells(key: Key, row: Row) -> Iterator[str]:
    result = row["result"]
    dense, best = result["dense"], result["best"]
    yield from key
    yield f"{best['kept_block_params']:.1%}"
    yield f"{best['file_bytes'] / 1e6:.1f}"
    yield f"{dense['metric']['test']:.3f}"
    yield f"{dense['helped']['test']:.3f}" if "helped" in dense else ""
    yield f"{result['reference']['metric']['test']:.3f}"
    yield f"{best['metric']['test']:.3f}"
    yield _drop(*best["drop"]["test"].values())
    yield f"{best['tokens_per_second'] / dense['tokens_per_second']:.2f}"
    yield {True: "yes", False: "no", None: ""}[result["promise_held"]]
    yield f"{sum(result['seconds'].values()):,.0f}"


def transfer(arguments: Namespace, rows: Rows) -> None:
    """Score every model on the test split of all tasks with the same answers."""
    wanted = [
        (source, target, str(seed))
        for source, target, seed in product(arguments.tasks, arguments.tasks, arguments.seeds)
        if _answers(source) == _answers(target) is not None
    ]

    def run(key: Key) -> Row:
        source, target, seed = key
        folder = _model(arguments, rows, source, seed)
        return _evaluated(arguments, folder, target, seed)

    for key in wanted:
        _answer(arguments, rows, "transfer", key, run)

    def cells(key: Key, row: Row) -> Iterator[str]:
        _, target, seed = key
        sieved = rows.get("sizes", (target, seed, arguments.effort))
        yield from key
        yield _metric(row)
        yield "" if sieved is None else f"{sieved['result']['best']['metric']['test']:.3f}"
        yield "" if sieved is None else f"{sieved['result']['dense']['metric']['test']:.3f}"

    print_table(
        "| sieved for | tested on | seed | metric (95 %) | sieved for it | dense |",
        [(key, rows.get("transfer", key)) for key in wanted],
        cells,
    )


def bits(arguments: Namespace, rows: Rows) -> None:
    """Score every model as it is, and rounded by `ranksieve quantize`."""
    wanted = [
        (task, str(seed), width)
        for task, seed, width in product(arguments.tasks, arguments.seeds, ("16", "8", "4"))
    ]

    def run(key: Key) -> Row:
        task, seed, width = key
        folder = _model(arguments, rows, task, seed)
        with TemporaryDirectory() as scratch:
            if width != "16":
                quantize(folder, Path(scratch) / width, int(width))
                folder = Path(scratch) / width
            return _evaluated(arguments, folder, task, seed) | {"mb": weight_bytes(folder) / 1e6}

    for key in wanted:
        _answer(arguments, rows, "bits", key, run)

    def cells(key: Key, row: Row) -> Iterator[str]:
        yield from key
        yield f"{row['mb']:.1f}"
        yield _metric(row)

    print_table(
        "| task | seed | bits | MB | metric (95 %) |", [(key, rows.get("bits", key)) for key in wanted], cells
    )


def rivals(arguments: Namespace, rows: Rows) -> None:
    """Fit and score what a user would pick instead, on the records of each job."""
    wanted = [(task, str(seed)) for task, seed in product(arguments.tasks, arguments.seeds)]

    def run(key: Key) -> Row:
        task, seed = key
        with contextlib.chdir(arguments.root):
            return compare_rivals(
                Settings(data_dir=arguments.data_dir, roots=[arguments.root]),
                _spec(task, seed),
                RIVALS,
                lambda line: print(line, file=sys.stderr, flush=True),
            )

    for key in wanted:
        _answer(arguments, rows, "rivals", key, run)
    found = [
        ((*key, one["name"]), one)
        for key in wanted
        for one in (rows.get("rivals", key) or {"rivals": []})["rivals"]
    ]

    def cells(key: Key, one: Row) -> Iterator[str]:
        yield from key
        yield f"{one['file_bytes'] / 1e6:.1f}"
        yield f"{one['speedup']:.2f}"
        yield _metric(one)

    print_table("| task | seed | rival | MB | speed | metric (95 %) |", found, cells)


QUESTIONS: Mapping[str, Callable[[Namespace, Rows], None]] = MappingProxyType(
    {"sizes": sizes, "transfer": transfer, "bits": bits, "rivals": rivals}
)


def _answer(arguments: Namespace, rows: Rows, question: str, key: Key, run: Callable[[Key], Row]) -> None:
    """Make a row that is missing, if its task has data."""
    if arguments.stored or rows.get(question, key) is not None:
        return
    if lacking := [
        file for name in key if name in TASKS for file in _files(name) if not (arguments.root / file).exists()
    ]:
        print(
            f"{question} {' '.join(key)}: no {', '.join(lacking)} in {arguments.root}",
            file=sys.stderr,
            flush=True,
        )
        return
    print(question, *key, file=sys.stderr, flush=True)
    rows.put(question, key, run(key))


def _document(task: str) -> Row:
    document = yaml.safe_load((HERE / "tasks" / f"{task}.yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def _files(task: str) -> list[str]:
    """Return the files that a task needs."""
    document = _document(task)
    data = document["task"]["data"]
    sources = [data["source"], *data.get("files", {}).values()]
    return [document["model"]["path"], *(source["path"] for source in sources)]


def _answers(task: str) -> list[str] | None:
    """Return the fixed answers of a task, or None."""
    answers: list[str] | None = _document(task)["task"].get("choices")
    return answers


def _model(arguments: Namespace, rows: Rows, task: str, seed: str) -> Path:
    """Return the folder of the model that `sizes` left."""
    row = rows.get("sizes", (task, seed, arguments.effort))
    if row is None:
        raise SystemExit(f"no model of {task}, seed {seed}: ask for `sizes` first")
    folder: Path = arguments.data_dir / "jobs" / row["result"]["job_id"] / "artifacts" / "model"
    return folder


def _evaluated(arguments: Namespace, folder: Path, task: str, seed: str) -> Row:
    """Score a folder on the test split of a task."""
    settings = Settings(data_dir=arguments.data_dir, roots=[arguments.root])
    with contextlib.chdir(arguments.root):  # paths in job files are relative to it
        return evaluate_export(settings, folder, _spec(task, seed), "test")


def _spec(task: str, seed: str) -> JobSpec:
    return JobSpec.model_validate(_document(task) | {"seed": int(seed)})


def _metric(row: Row) -> str:
    low, high = row["interval"]
    return f"{row['metric']:.3f} ({low:.3f} to {high:.3f})"


def _drop(estimate: float, low: float, high: float) -> str:
    return f"{estimate:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    main()
