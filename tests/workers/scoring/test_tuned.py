from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, Tuned
from ranksieve.workers.factors.tuning import Tuning
from ranksieve.workers.scoring import tuned as module
from ranksieve.workers.scoring.tuned import tuned
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress

LEARNS = Tuning(epochs=40, learning_rate=3e-4, whole=False)


@pytest.fixture
def plan(
    preparation_plan: PreparationPlan,
    make_task: Callable[..., EncodedTask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> PreparationPlan:
    """A task that needs one block, whose search records are calibration records, so that tuning helps."""
    monkeypatch.setattr(module, "needed_blocks", lambda *_: 1)
    task = make_task("choice")
    splits = {**task.splits, "search": task.splits["calibration"], "confirm": task.splits["search"]}
    digests = {**task.split_digests, "confirm": "confirm"}
    task = replace(task, splits=splits, split_digests=digests)
    return replace(preparation_plan, task=task, cache_dir=tmp_path, tuning=LEARNS)


def run(plan: PreparationPlan) -> tuple[set[str], Tuned]:
    *progress, made = tuned(plan)
    assert isinstance(made, Tuned)
    return {item.phase for item in progress if isinstance(item, Progress)}, made


def test_a_tuned_model_has_fewer_blocks_and_every_later_step_works_on_it(plan: PreparationPlan) -> None:
    phases, made = run(plan)
    assert phases == {"model", "dense", "tuning"}
    assert (made.blocks, made.all_blocks) == (1, 2)
    assert made.model != made.given
    assert {matrix.layer for matrix in made.absent} == {1}
    assert made.quality.keys() == made.helped.keys() == {"search", "test"}
    *_, prepared = prepare(replace(plan, tuned=made))
    assert isinstance(prepared, Prepared)
    assert {matrix.layer for matrix in prepared.matrices} == {0}
    space = prepared.space(4)
    assert space.total_params == sum(m.dense_params for m in (*prepared.matrices, *made.absent))
    assert space.kept_share(space.largest_genome) == pytest.approx(0.5)
    assert prepared.dense_block_params == made.block_params == 2 * prepared.block_params
    assert prepared.params_with(space.params(space.largest_genome)) == (
        prepared.block_params,
        prepared.total_params,
    )


def test_a_model_that_writes_its_answers_keeps_its_blocks_and_needs_no_offsets(
    plan: PreparationPlan, make_task: Callable[..., EncodedTask]
) -> None:
    task = make_task("generate")
    splits = {**task.splits, "search": task.splits["calibration"]}
    tuning = replace(LEARNS, whole=True)
    phases, made = run(replace(plan, task=replace(task, splits=splits), tuning=tuning))
    assert phases == {"model", "dense", "tuning"}
    assert made.model != made.given
    assert (made.blocks, made.absent) == (made.all_blocks, ())
    np.testing.assert_equal(made.helped, made.quality)
    assert {split: len(quality_E) for split, quality_E in made.quality.items()} == {
        split: len(splits[split]) for split in ("search", "test")
    }


def test_the_given_model_stays_if_the_tuned_one_is_worse(plan: PreparationPlan) -> None:
    _, made = run(replace(plan, tuning=replace(LEARNS, learning_rate=1e3, epochs=2)))
    assert made.model == made.given
    assert made.blocks == made.all_blocks == 2
    assert made.absent == ()


def test_the_outcome_comes_from_the_cache_and_depends_on_the_settings(
    plan: PreparationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = run(plan)
    monkeypatch.setattr(module, "tune", None)
    phases, again = run(plan)
    assert phases == {"model"}
    assert again.model == made.model
    np.testing.assert_equal(again.quality, made.quality)
    with pytest.raises(TypeError):
        run(replace(plan, tuning=replace(LEARNS, epochs=1)))
    with pytest.raises(TypeError):
        run(replace(plan, seed=1))
