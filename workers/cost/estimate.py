"""Estimate of a job's tokens, FLOPs, memory, disk and time.

It computes from shapes and token counts, before any work is done. Nothing is loaded, run or timed here (`cost.speed`
times). The work of a job depends on its results. Every search is assumed to use up its scorings. The dense model is
assumed to run in every round of reweighing and descent, though it answers a choice once. So these phases and the test
may end before the low end of their range. The low ends of refit and confirm assume the fewest finalists that can be
needed.
"""

from dataclasses import dataclass

from ranksieve.workers.cost import memory, operations, preparation_memory
from ranksieve.workers.cost.footprint import Footprint, factor_bytes, weight_bytes
from ranksieve.workers.cost.operations import Steps, Work
from ranksieve.workers.cost.shapes import JobSize, Load, ModelSize, gram_passes
from ranksieve.workers.cost.speed import Rates

REFIT_PASSES = 5
"""Approximate cost of a refit in forward passes, float32 products included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseEstimate:
    """Needs of one phase.

    Memory is the peak, over all processes of the host and on the fullest accelerator.
    """

    phase: str
    tokens: int
    flops: int
    host_bytes: int
    accelerator_bytes: int
    disk_bytes: int
    seconds_low: float
    seconds_high: float


def estimate(model: ModelSize, job: JobSize, rates: Rates) -> tuple[PhaseEstimate, ...]:
    """Return the needs of every phase of a job, in the order of the phases.

    Args:
        model: The dense model.
        job: The job.
        rates: Rates of one device; for a processor, of all the job's threads.
    """
    loads, weights = job.loads, weight_bytes(model, job)
    factors = factor_bytes(model.matrices, job.dtype)
    copying = Work(starts=1, file_bytes=3 * weights)  # read, write and hash, or read twice and verify

    def seconds(work: Steps) -> tuple[float, float]:
        ranges = [part.seconds(job.dtype, rates, devices) for part, devices in work]
        return sum(low for low, _ in ranges), sum(high for _, high in ranges)

    def phase(
        name: str, load: Load, work: Steps, peak: Footprint, disk: int = 0, least: Steps | None = None
    ) -> PhaseEstimate:
        return PhaseEstimate(
            phase=name,
            tokens=round(load.tokens + load.decoded),
            flops=round(sum(part.all_flops for part, _ in work)),
            host_bytes=peak.host_bytes,
            accelerator_bytes=peak.accelerator_bytes,
            disk_bytes=disk,
            seconds_low=round(seconds(least or work)[0], 1),
            seconds_high=round(seconds(work)[1], 1),
        )

    def scored(name: str, load: Load, start: Work, least: Load | None = None) -> PhaseEstimate:
        work, fewer = (
            [(operations.scoring(model, job, one) + start, job.devices)] for one in (load, least or load)
        )
        return phase(name, load, work, memory.scoring(model, job, load), least=fewer)

    def slope_rounds(name: str) -> PhaseEstimate:
        load, looks = loads[name], loads[f"{name}_looks"]
        work = operations.measuring_slopes(model, job, load) + operations.scoring(model, job, looks)
        return phase(
            name, load.times(2) + looks, [(work, job.devices)], memory.measuring_slopes(model, job, load)
        )

    calibration, none = loads["calibration"], Work()
    passes, midway = len(gram_passes(model, job.method, job.gram_bytes)), job.midway_share is not None
    streamed = (calibration + loads["way"] if midway else calibration).times(passes)
    streamed += loads["propagation"].times(operations.flowing_passes(job)) + loads["propagation_looks"]
    streamed += loads["refinement"].times(job.train_epochs)
    entries = 1 + midway + (job.propagated > 0) + (job.train_epochs > 0)  # one for each kind of factors
    refit_one = loads["refit"].times(REFIT_PASSES)
    if refit_one.tokens:
        refit_one += loads["search"].times(2)  # before and after the refit
    refit = refit_one.times(job.finalists)
    # finalists that fill the actors are refit together
    at_once = min(max(job.fewest_finalists, job.actors), job.finalists)
    timed = []
    if "latency" in loads:
        once = loads["latency"]
        timed = [
            phase(
                "latency",
                once.times(operations.TIMING_PASSES),
                [(operations.timing(model, job, once), 1)],
                memory.timing(model, job),
            )
        ]
    search = loads["search"].times(job.search_passes)
    return (
        phase(
            "prepare",
            streamed,
            operations.preparing(model, job),
            preparation_memory.preparing(model, job),
            disk=weights + entries * factors + preparation_memory.spilled_bytes(model, job),
        ),
        *timed,
        scored(
            "dense",
            loads["search"] + loads["confirm"],
            Work(starts=1, file_bytes=job.actors * (weights + factors)),
        ),
        slope_rounds("reweigh"),
        slope_rounds("descend"),
        scored("search", search, none),
        phase(
            "refit",
            refit,
            [(operations.scoring(model, job, refit), job.devices)],
            memory.refitting(model, job),
            least=[(operations.scoring(model, job, refit_one.times(at_once)), job.devices)],
        ),
        scored(
            "confirm",
            loads["confirm"].times(job.finalists),
            none,
            loads["confirm"].times(job.fewest_finalists),
        ),
        scored("test", loads["test"].times(2), none),
        phase("export", Load(), [(copying, 1)], memory.exporting(model, job), disk=weights),
        phase(
            "verify",
            loads["verify"],
            [(operations.scoring(model, job, loads["verify"]) + copying, 1)],
            memory.verifying(model, job),
        ),
    )
