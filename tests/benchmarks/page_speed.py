"""How fast a job's page is with many candidates: paint, bytes, events and scrolling.

    page_speed.py --chromium PROGRAM [--candidates 10000] [--rounds 5]

A server of its own runs a job without a model behind it, whose search is at rest but for the events that are timed.
First paint is that of a new browser context; bytes are what the network carried for the page and its answers. An event
is timed from after its commit until it is in the page's list.
"""

import json
import os
import statistics
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from sample_jobs import sample_job

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.client.client import Client
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.service.application import Application
from ranksieve.service.job import matrices
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.webhooks.sender import Sender

KINDS, LAYERS, GENERATION = 7, 30, 100
"""Matrices of a layer, layers, and candidates of a generation."""
SEEN = "(text) => [...document.querySelectorAll('.log li')].some((item) => item.textContent.includes(text))"
FRAMES = """async () => {
  const rows = document.querySelector(".rows");
  const times = [];
  for (let frame = 0; frame < 180; frame += 1) {
    rows.scrollTop += 500;
    times.push(await new Promise(requestAnimationFrame));
  }
  return times.slice(1).map((time, index) => time - times[index]);
}"""


class Searching:
    """Pipeline that saves candidates and then tells what it is asked to, until `over` is set."""

    def __init__(self, candidates: int) -> None:
        self._candidates = candidates
        self.ready, self.over = threading.Event(), threading.Event()
        self.log: JobLog | None = None

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        matrices.keep(log.directory, list(_matrices()))
        log.state(JobState.PREPARING)
        log.state(JobState.SEARCHING)
        rng = Random(0)
        for number in range(self._candidates // GENERATION):
            log.generation(_record(number), [_candidate(number, rng) for _ in range(GENERATION)], {})
        self.log = log
        self.ready.set()
        self.over.wait()
        log.raise_if_cancelled()
        return {}


def main() -> None:
    options = ArgumentParser(description=__doc__)
    options.add_argument("--chromium", type=Path, required=True, help="the browser's program")
    options.add_argument("--candidates", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    searching = Searching(arguments.candidates)
    with _serving(searching) as client, sync_playwright() as playwright:
        job = client.submit(sample_job("page speed"))["id"]
        searching.ready.wait()
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        url = f"{client.connection.url}/#/jobs/{job}"
        opened = [_open(browser, url) for _ in range(arguments.rounds)]
        page = browser.new_page()
        page.goto(url)
        page.locator(".chart svg").first.wait_for()
        assert searching.log is not None
        found = {
            "load_average": os.getloadavg()[0],
            **{name: statistics.median(one[name] for one in opened) for name in opened[0]},
            "event_ms": _events(page, searching.log, 4 * arguments.rounds),
            "scroll": _scroll(page),
        }
        browser.close()
        client.cancel(job)
        searching.over.set()
    print(json.dumps(found, indent=2))


@contextmanager
def _serving(searching: Callable[[Job, JobLog], dict[str, Any]]) -> Iterator[Client]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), requests_per_second=0)
        store, metrics = Store(settings.store_url), Metrics()
        controller = Controller(store, searching, settings.jobs_dir, metrics=metrics, retry_s=0.0)
        sender = Sender(store.outbox, _refuse, metrics, folders=settings.private_folders)
        application = Application(settings, store, controller, Feed(), _accept, _refuse, metrics, sender)
        with embedded(application) as client:
            yield client


def _accept(spec: JobSpec, cancelled: threading.Event | None) -> JobSpec:
    return spec.on_cluster([{"CPU": 2}])


def _refuse(*_: Any) -> Any:
    raise RuntimeError("no estimate is asked for and no webhook is sent here")


def _open(browser: Browser, url: str) -> dict[str, float]:
    """Open the page anew: milliseconds to the first paint and to the first chart, bytes over the network."""
    with browser.new_context() as context:
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        sizes: list[float] = []
        network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
        page.goto(url)
        page.locator(".chart svg").first.wait_for()
        chart_ms = page.evaluate("performance.now()")
        paint_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        return {"first_paint_ms": paint_ms, "first_chart_ms": chart_ms, "kilobytes": sum(sizes) / 1000}


def _events(page: Page, log: JobLog, times: int) -> dict[str, float]:
    """Time events from their commit to the list: the median and the longest."""
    taken = []
    for number in range(times):
        reason = f"event number {number}."
        log.event(EventType.ACTOR_REPLACED, actor=number, reason=reason)
        committed_s = time.perf_counter()
        page.wait_for_function(SEEN, arg=reason, polling=10)
        taken.append(1000 * (time.perf_counter() - committed_s))
        page.wait_for_timeout(500)
    return {"median": statistics.median(taken), "longest": max(taken)}


def _scroll(page: Page) -> dict[str, float]:
    """Scroll the table of all candidates: milliseconds of a frame, and the share above 20."""
    page.locator("details:has(.rows) summary").click()
    page.locator(".rows tbody tr").nth(5).wait_for()
    frames = page.evaluate(FRAMES)
    return {
        "rows": page.evaluate("Number(document.querySelector('.rows table').ariaRowCount) - 1"),
        "median_ms": statistics.median(frames),
        "slow_share": sum(frame > 20 for frame in frames) / len(frames),
    }


def _matrices() -> Iterator[MatrixShape]:
    for layer in range(LAYERS):
        for kind in range(KINDS):
            name = f"model.layers.{layer}.matrix_{kind}"
            yield MatrixShape(
                name=name, out_features=576, in_features=576, layer=layer, kind=f"matrix_{kind}"
            )


def _candidate(generation: int, rng: Random) -> dict[str, Any]:
    share = rng.random()
    loss = 1 - share + 0.2 * rng.random()
    return {
        "generation": generation, "genome": [1] * KINDS * LAYERS, "ranks": [16] * KINDS * LAYERS,
        "kept_share": share, "kl_nats": loss, "loss_nats": loss, "drop_points": 10 * loss, "drop_bound": 12 * loss,
        "metric": 1 - loss / 2, "tokens": 2048, "seconds": 0.5, "failure": None,
    }  # fmt: skip


def _record(generation: int) -> dict[str, Any]:
    return {
        "generation": generation, "target_share": 0.4, "kept_share": 0.4, "kl_nats": 0.1, "loss_nats": 0.1,
        "drop_points": 1.0, "metric": 0.8, "evaluations": generation * GENERATION, "tokens": 2048, "accepted": True,
        "loss_min": 0.1, "loss_avg": 0.2, "loss_max": 0.3, "loss_std": 0.1,
    }  # fmt: skip


if __name__ == "__main__":
    main()
