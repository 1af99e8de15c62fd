from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.cluster.actor import ScorerPlan, build_scorer
from ranksieve.workers.export.verification import plain_scorer, score_plain
from ranksieve.workers.export.writer import ExportPlan, export
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared
from ranksieve.workers.types.scores import ScoreRequest, Scores

Made = tuple[ScorerPlan, Prepared]


@pytest.fixture(scope="module")
def wide(
    make_llama: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    preparation_plan: PreparationPlan,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared:
    """Matrices with ranks of 16 and 32, prepared."""
    folder = tmp_path_factory.mktemp("wide")
    make_llama(hidden_size=64, intermediate_size=96).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    source = replace(preparation_plan.model, location=str(folder))
    *_, prepared = prepare(replace(preparation_plan, model=source))
    assert isinstance(prepared, Prepared)
    return prepared


@pytest.fixture
def ranks(wide: Prepared) -> tuple[int, ...]:
    """A dense matrix, one that is gone, and low ranks."""
    chosen = [16 * (1 + index % 2) if m.largest_rank >= 32 else 16 for index, m in enumerate(wide.matrices)]
    chosen[0], chosen[5] = DENSE, 0
    return tuple(chosen)


@pytest.mark.usefixtures("_own_modules_cache")
def test_a_candidate_scores_as_its_files_do_and_the_dense_model_as_it_was(
    wide: Prepared,
    ranks: tuple[int, ...],
    preparation_plan: PreparationPlan,
    make_scorer_plan: Callable[[Prepared], ScorerPlan],
    export_plan: ExportPlan,
    tokenizer: PreTrainedTokenizerFast,
    llama_folder: Path,
) -> None:
    task, plan = preparation_plan.task, make_scorer_plan(wide)
    dense_ranks = (DENSE,) * len(ranks)
    dense, candidate, rounded_dense = (
        ScoreRequest(ranks=one, split="search", start=0, stop=16) for one in (dense_ranks, ranks, dense_ranks)
    )
    plain, few = build_scorer(plan, task), build_scorer(replace(plan, bits=4), task)
    expected, _ = plain.score_dense(dense)
    given, beliefs = few.score_dense(dense)
    assert np.array_equal(given.nll_nats, expected.nll_nats)
    few.set_beliefs({"search": beliefs})
    scores, rounded = few.score(candidate), few.score(rounded_dense)
    assert isinstance(scores, Scores)
    assert isinstance(rounded, Scores)
    assert (rounded.kl_nats > 0).all()
    assert np.array_equal(few.score_dense(dense)[0].nll_nats, expected.nll_nats)

    export_plan = replace(
        export_plan,
        model_folder=wide.model.folder,
        factors_folder=wide.factors,
        matrices=wide.matrices,
        ranks=ranks,
        bits=4,
    )
    list(export(export_plan))
    stranger = AutoModelForCausalLM.from_pretrained(
        export_plan.folder, dtype="auto", trust_remote_code=True
    ).eval()
    found = score_plain(plain_scorer(stranger, tokenizer, task, 64), "search", 0, 16)
    np.testing.assert_allclose(found.nll_nats, scores.nll_nats, rtol=1e-4, atol=1e-5)
    assert np.array_equal(found.quality, scores.quality)
