"""Vetting of nodes: what is on a node must be what the server has.

A node that joins is asked once for its versions, and whether it has the server's data folder. One that differs is not
used, and says why; it is asked again later, since a folder may be mounted late.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ranksieve.workers.cluster.crew import reason_of

logger = logging.getLogger(__name__)

ANSWER_S = 60.0
"""Longest time for nodes to answer, in seconds; the first worker of a node takes a few to start."""

AGAIN_S = 120.0
"""Time after which a refused node is asked again, in seconds.

One that does not answer holds up the start of a job meanwhile.
"""

FOLDER = "the server's data folder"

Facts = Mapping[str, str]
"""Name of a package, or `FOLDER` → what there is of it."""

Ask = Callable[[Collection[str], Path | None], Mapping[str, Facts | str]]
"""Asks nodes, with a file that they must find: node → facts, or why there are none."""


class Vetting:
    """Nodes that work may be given to.

    Args:
        folder: Folder that all nodes must share with the server; None: there is none.
        ask: Asks nodes.
    """

    def __init__(self, folder: Path | None, ask: Ask | None = None) -> None:
        self._folder, self._ask = folder, ask or ask_nodes
        self._asking = threading.Lock()
        self._good = frozenset[str]()
        self._refused: dict[str, tuple[str, float]] = {}

    @property
    def refusals(self) -> list[str]:
        """Reasons why nodes of the cluster are not used, for users."""
        return sorted(reason for reason, _ in self._refused.values())

    def lack(self, nodes: Mapping[str, Mapping[str, float]]) -> str | None:
        """Return what these nodes, as far as they were asked, lack to run any job."""
        able = {name for name, node in nodes.items() if node.get("CPU")}
        if not able:
            return "no node of the Ray cluster has a CPU; jobs wait for one"
        if able <= self._refused.keys():
            return "all nodes of the Ray cluster differ from this server; its log and waiting jobs say how"
        return None

    def admitted(self, nodes: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
        """Return the nodes that are used; ask those that are new.

        Args:
            nodes: Resources of each living node. One without processors gets no work and is not asked.
        """
        with self._asking:
            due_s = time.monotonic() - AGAIN_S
            waiting = {name for name, (_, at_s) in self._refused.items() if at_s > due_s}
            known = self._good | waiting
            new = {name: node for name, node in nodes.items() if node.get("CPU") and name not in known}
            self._refused = {name: told for name, told in self._refused.items() if name in nodes}
            self._good &= nodes.keys()
            if new:
                self._vet(new)
            return {name: node for name, node in nodes.items() if name not in self._refused}

    def _vet(self, nodes: Mapping[str, Mapping[str, float]]) -> None:
        with _shared_file(self._folder) as file:
            expected, found = _inspector()(file), self._ask(nodes.keys(), file)
        for name, facts in found.items():
            reason = facts if isinstance(facts, str) else _difference(facts, expected, nodes[name])
            if reason is None:
                self._good |= {name}
                self._refused.pop(name, None)
            else:
                told = f"node {_label(name)} is not used: {reason}"
                if self._refused.get(name, ("", 0.0))[0] != told:
                    logger.warning("%s", told)
                self._refused[name] = told, time.monotonic()


def ask_nodes(nodes: Collection[str], file: Path | None) -> dict[str, Facts | str]:
    """Ask nodes of the connected cluster, all at once."""
    task = ray.remote(num_cpus=0, max_retries=0)(_inspector())
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[task.options(scheduling_strategy=there).remote(file)] = node
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    found: dict[str, Facts | str] = {}
    for reference in late:
        ray.cancel(reference, force=True)
        found[asked[reference]] = f"it did not answer within {ANSWER_S:g} s"
    for reference in answered:
        try:
            found[asked[reference]] = ray.get(reference)
        except RayError as error:
            found[asked[reference]] = f"it could not be asked: {reason_of(error)}"
    return found


def _inspector() -> Callable[[Path | None], dict[str, str]]:
    """Return what runs on a node: a local function, which Ray sends by value.

    So it runs where this package is missing.
    """

    folder = FOLDER  # a closure travels with the function

    def inspect(file: Any) -> dict[str, str]:
        import hashlib
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec
        from pathlib import Path

        def version_of(package: str) -> str:
            try:
                return version(package)
            except PackageNotFoundError:
                return "none"

        facts = {package: version_of(package) for package in ("ranksieve", "torch", "transformers")}
        if (found := find_spec("ranksieve")) is not None:
            code = hashlib.sha256()
            for place in found.submodule_search_locations or ():
                for source in sorted(Path(place, "workers").rglob("*.py")):
                    code.update(f"{source.name}\0".encode() + source.read_bytes())
            facts["ranksieve"] += f" with code {code.hexdigest()[:8]}"
        if file is not None:
            try:
                written = file.with_name(f"{file.name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}")
                written.touch()
                written.unlink()
            except FileNotFoundError:
                facts[folder] = "is missing"
            except OSError as error:
                facts[folder] = f"cannot be used: {error.strerror}"
            else:
                facts[folder] = "is there"
        return facts

    return inspect


def _difference(found: Facts, expected: Facts, node: Mapping[str, float]) -> str | None:
    """Return how a node differs from the server, for users; None if it does not."""
    for name, wanted in expected.items():
        has = found[name]
        if name == FOLDER and has != wanted:
            return f"{name} {has} on it"
        if has.partition("+")[0] != wanted.partition("+")[0]:
            return f"it has {name} {has}, the server {wanted}"
    if node.get("GPU") and found["torch"].endswith("+cpu"):
        return f"its torch {found['torch']} cannot use its GPUs"
    return None


def _label(name: str) -> str:
    """Return a node's name for people, which is its address if it was given none."""
    return next((str(node["NodeName"]) for node in ray.nodes() if node["NodeID"] == name), name[:8])


@contextmanager
def _shared_file(folder: Path | None) -> Iterator[Path | None]:
    """Write a file that other nodes must find; remove it at the end."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.resolve() / f".node-{uuid.uuid4().hex}"
    file.write_text(file.name)
    try:
        yield file
    finally:
        file.unlink()
