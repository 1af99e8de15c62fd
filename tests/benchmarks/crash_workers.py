"""Kills the actors of whole jobs, and the Ray under them: every job must end as if nothing had happened.

    .venv/bin/python tests/benchmarks/crash_workers.py --victims actor --kills 100 [--seed 0]
    .venv/bin/python tests/benchmarks/crash_workers.py --victims raylet --kills 50 [--nodes 2]

Jobs prepare, search, confirm, export and verify a real, tiny model on a real Ray: the one that their server embeds, or
a cluster of several nodes that it joins. Dice are cast at every commit of the server, just before and just after it:
they choose who is struck there, or a moment later, when work is half done. Of `actor`, processes that calibrate,
factor, score, export or verify are killed, or held by SIGSTOP until after their deadline and then let go; of
`raylet`, a node's raylet, or of an embedded Ray its GCS as well. Dead nodes and dead servers are replaced, crashed
jobs resumed. Prints what was done, and exits with 1 if any job's result, weights, generations or candidates differ
from those of a run in one process without Ray, or a scoring was recorded twice.
"""

import argparse
import ctypes
import json
import logging
import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import psutil
from accounts import account, differences
from commits import watch
from in_process import InProcess
from ray_nodes import Nodes
from rich.console import Console
from rich.table import Table
from tiny_job import make_world, spec_of
from transformers import dynamic_module_utils
from transformers.utils.logging import disable_progress_bar

from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import JobState, Request
from ranksieve.service.pipeline import steps
from ranksieve.service.pipeline.pipeline import run_job
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.cluster.actor import ScorerPlan, build_scorer
from ranksieve.workers.cluster.packing import amounts
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share, Sharing
from ranksieve.workers.machine.limited import run_here
from ranksieve.workers.types.plan import EncodedTask

VARIANTS = 6
"""So many different jobs there are; each is run undisturbed once."""

EVALUATION_TIMEOUT_S = 20.0
"""Many times what an evaluation takes, also on a machine with other things to do."""

RETRY_S = 0.5
SOON_S = 0.2
HELD_SHARE = 0.1
JOB_TIMEOUT_S = 3600.0
FORK = multiprocessing.get_context("fork")  # a copy has imported all it needs

WORKING = ("ScoringActor", "closed_form", "prepare", "export", "verify")
CHANCES = {
    "calibration": 0.005, "projection": 0.2, "dense": 0.1, "search": 0.04, "generation": 0.15,
    "confirm": 0.1, "test": 0.1, "verify": 0.2,
}  # fmt: skip
"""How likely something is struck at a point; the more often a job passes it, the less."""

OTHER_POINTS = 0.05


def point_of(write: str, arguments: tuple[Any, ...]) -> str:
    """What a write tells of."""
    if write == "save_generation":
        return "generation"
    if write == "transition":
        return str(arguments[1])
    if arguments[1] is EventType.PHASE_PROGRESS:
        return str(arguments[2]["phase"])
    return str(arguments[1])


class Striker:
    """Strikes the workers of one server, from inside of it.

    Args:
        victims: `actor` or `raylet`.
        root: The process below which Ray runs.
        limit: Strikes at most.
        rng: The dice.
        log: File that is told of every strike.
    """

    def __init__(self, victims: str, root: psutil.Process, limit: int, rng: Random, log: Path) -> None:
        self._victims, self._root, self._left, self._rng, self._log = victims, root, limit, rng, log
        self._lock = threading.Lock()

    def moment(self, write: str, arguments: tuple[Any, ...], when: str) -> None:
        """Casts the dice; called at every commit, before and after it."""
        point = point_of(write, arguments)
        if self._rng.random() >= CHANCES.get(point, OTHER_POINTS):
            return
        if when == "after" and self._rng.random() < 0.5:
            threading.Timer(SOON_S * self._rng.random(), self._strike, (point, "soon after")).start()
        else:
            self._strike(point, when)

    def _strike(self, point: str, when: str) -> None:
        with self._lock, suppress(psutil.NoSuchProcess):
            found = self._find() if self._left else []
            if not found:
                return
            victim = self._rng.choice(found)
            name = victim.name() if self._victims == "raylet" else _title(victim)
            held = "ScoringActor" in name and self._rng.random() < HELD_SHARE
            victim.send_signal(signal.SIGSTOP if held else signal.SIGKILL)
            self._left -= 1
            with self._log.open("a") as log:
                print(json.dumps([point, when, f"{name} held" if held else name]), file=log)
            if held:
                threading.Timer(1.5 * EVALUATION_TIMEOUT_S, _let_go, (victim,)).start()

    def _find(self) -> list[psutil.Process]:
        return [process for process in self._root.children(recursive=True) if self._is_victim(process)]

    def _is_victim(self, process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            if process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED}:
                return False
            if self._victims == "actor":
                return _title(process) in WORKING
            if self._root.pid == os.getpid():
                return process.name() in {"raylet", "gcs_server"}
            return process.name() == "raylet" and "--head" not in process.cmdline()
        return False


def _title(process: psutil.Process) -> str:
    """What a worker of Ray does: an actor's class, a task's function, `IDLE`."""
    return "".join(process.cmdline()[:1]).removeprefix("ray::").split(".")[0].partition(" ")[0]


def _let_go(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGCONT)


def serve(settings: Settings, strike: Callable[[Store], None]) -> None:
    """Runs jobs to their ends, as a server that has just started does; ends with its process."""
    log = os.open(settings.data_dir / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)  # Ray's workers write there, too
    os.dup2(log, 2)
    logging.basicConfig(level=logging.WARNING)
    steps.EVALUATION_TIMEOUT_S = EVALUATION_TIMEOUT_S
    store, ended, cluster = Store(settings.store_url), threading.Event(), Cluster(settings.ray_address)
    store.claims.release_all()
    store.base.listener = lambda id: ended.set()
    strike(store)
    pipeline = partial(run_job, settings, cluster)
    controller = Controller(store, pipeline, settings.jobs_dir, session=cluster, retry_s=RETRY_S)
    controller.start()
    while any(not state.ended for state in store.count_jobs()):
        ended.wait(1.0)
        ended.clear()
    controller.stop()
    os._exit(0)


class OneProcess:
    """Stands in for `workers.cluster.session.Cluster`: phases and scorings run here, one after another."""

    def share(
        self, job: str, *, actors: int, threads: int, gpus: float, **options: Any
    ) -> AbstractContextManager[Share]:
        """Room for one actor, always."""
        size = amounts(CPU=threads, GPU=gpus)
        return Sharing().enter(job, {"here": size}, size, limit=actors, **options)

    run_limited = staticmethod(run_here)

    def run(self, phase: Callable[..., Iterator[Any]], *arguments: Any, **_: Any) -> Any:
        *_, last = phase(*arguments)
        return last

    def dispatcher(self, plan: ScorerPlan, task: EncodedTask, **_: Any) -> InProcess:
        scorers = InProcess(build_scorer(plan, task))
        scorers.close = lambda: None  # type: ignore[attr-defined]
        return scorers


def run_alone(settings: Settings, spec: JobSpec, file: Path) -> None:
    """Writes the account of a job that nothing happens to."""
    dynamic_module_utils.HF_MODULES_CACHE = str(settings.data_dir / "modules")
    sys.path.append(dynamic_module_utils.HF_MODULES_CACHE)
    store = Store(settings.store_url)
    store.submissions.create_job(spec)
    job = store.claims.claim_next()
    assert job is not None
    log = JobLog(store, job, settings.jobs_dir / job.id)
    log.directory.mkdir(parents=True)
    result = run_job(settings, OneProcess(), job, log)  # type: ignore[arg-type]
    job = store.runs.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch, result=result)
    file.write_text(json.dumps(account(store, job)))


class Campaign:
    """Jobs, one after another, and what is done to their workers.

    Args:
        folder: For everything.
        victims: `actor` or `raylet`.
        seed: Of all dice.
        nodes: The cluster that servers join; None if each embeds a Ray of its own.
    """

    def __init__(self, folder: Path, victims: str, seed: int, nodes: Nodes | None) -> None:
        self._folder, self._victims, self._seed, self._nodes = folder, victims, seed, nodes
        self._settings = self._settings_in("data")
        self._log = folder / "strikes.jsonl"
        self._log.touch()
        self.jobs = self.resumed = self.servers = 0
        self.differences: list[str] = []
        self._undisturbed = cache(self._run_alone)

    def strikes(self) -> list[list[str]]:
        """Point, moment and victim of every strike."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def job(self, limit: int) -> None:
        """Runs one job to its end, through at most so many strikes."""
        FolderCache(self._settings.cache_dir).shrink(0)
        variant = self.jobs % VARIANTS
        expected = self._undisturbed(variant)
        with self._store() as store:
            id = store.submissions.create_job(spec_of(variant)).id
        self.jobs += 1
        limit += len(self.strikes())
        while not self._over(id):
            self._serve(limit - len(self.strikes()))
        with self._store() as store:
            self.differences += differences(store, store.job(id), expected)

    def _serve(self, limit: int) -> None:
        """Runs a server until the job has ended, or the server has died with its Ray; its processes go with it."""
        self.servers += 1
        rng = Random(f"{self._seed} {self.servers}")

        def strike(store: Store) -> None:
            root = psutil.Process() if self._nodes is None else psutil.Process(self._nodes.pid)
            striker = Striker(self._victims, root, limit, rng, self._log)
            watch(store, ("append_event", "transition", "save_generation"), striker.moment)

        server = FORK.Process(target=serve, args=(self._settings, strike))
        server.start()
        server.join(JOB_TIMEOUT_S)
        hangs = server.is_alive()
        for process in self._left_behind():
            process.kill()
        server.join()
        if hangs:
            raise SystemExit(f"job {self.jobs} did not end within {JOB_TIMEOUT_S:g} s")

    def _left_behind(self) -> list[psutil.Process]:
        """Processes of a server; those whose parents died belong to this process, see `adopt_orphans`."""
        below = psutil.Process().children(recursive=True)
        if self._nodes is None:
            return below
        keeper = psutil.Process(self._nodes.pid)
        kept = {keeper.pid, *(process.pid for process in keeper.children(recursive=True))}
        return [process for process in below if process.pid not in kept]

    def _over(self, id: str) -> bool:
        """Whether the job has ended; a crashed one is resumed."""
        with self._store() as store:
            if store.job(id).state is JobState.CRASHED:
                store.user_requests.ask(id, Request.RESUME)
                self.resumed += 1
            return store.job(id).state.terminal

    def _run_alone(self, variant: int) -> dict[str, Any]:
        file = self._folder / f"alone-{variant}.json"
        settings = self._settings_in(f"alone-{variant}")
        process = FORK.Process(target=run_alone, args=(settings, spec_of(variant), file))
        process.start()
        process.join()
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def _settings_in(self, name: str) -> Settings:
        data_dir = self._folder / name
        data_dir.mkdir()
        address = None if self._nodes is None else self._nodes.address
        return Settings(data_dir=data_dir, roots=[self._folder], ray_address=address)

    @contextmanager
    def _store(self) -> Iterator[Store]:
        """The store, closed before a process is copied: connections cannot be shared."""
        with closing(Store(self._settings.store_url)) as store:
            yield store


def adopt_orphans() -> None:
    """Makes this process the parent of those below it whose own parents die, so that it can end them."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def table(campaign: Campaign) -> Table:
    """What was done."""
    strikes = campaign.strikes()
    moments = ["before", "after", "soon after"]
    shown = Table("point", title=f"{len(strikes)} strikes in {campaign.jobs} jobs")
    for moment in moments:
        shown.add_column(f"{moment} its commit", justify="right")
    for name in sorted({point for point, *_ in strikes}):
        counts = [sum(strike[:2] == [name, moment] for strike in strikes) for moment in moments]
        shown.add_row(name, *map(str, counts))
    victims = Counter(victim for *_, victim in strikes)
    struck = ", ".join(f"{count} {victim}" for victim, count in sorted(victims.items()))
    shown.caption = (
        f"{struck}; {campaign.servers} servers, {campaign.resumed} crashed jobs resumed; "
        f"{len(campaign.differences)} differences"
    )
    return shown


def main() -> None:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victims", choices=["actor", "raylet"], required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-job", type=int, default=20, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=0, help="of a cluster to join; 0: Ray is embedded")
    parser.add_argument(
        "--folder", type=Path, help="an empty one, kept with the servers' logs; its path short"
    )
    arguments = parser.parse_args()
    adopt_orphans()
    disable_progress_bar()
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as name:
        os.environ["RAY_TMPDIR"] = str(name)
        make_world(Path(name))
        nodes = Nodes(arguments.nodes) if arguments.nodes else None
        campaign = Campaign(Path(name), arguments.victims, arguments.seed, nodes)
        while (left := arguments.kills - len(campaign.strikes())) > 0 and not campaign.differences:
            campaign.job(min(left, arguments.kills_per_job))
            print(f"{campaign.jobs} jobs, {len(campaign.strikes())} strikes", file=sys.stderr)
        if nodes is not None:
            nodes.close()
        Console(width=100).print(table(campaign))
    if campaign.differences:
        sys.exit("\n".join(campaign.differences))


if __name__ == "__main__":
    main()
