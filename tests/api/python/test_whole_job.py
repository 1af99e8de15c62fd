"""A whole job from Python on a real Ray: a tiny model, and records out of a DataFrame."""

import pandas
import pytest
from tiny_job import CPU_BATCH_TOKENS, SPLITS, document_of, make_world
from tuning import PLAIN, tuned

import ranksieve
from ranksieve.service import policy
from ranksieve.service.spec.resources import BATCH_TOKENS


@pytest.fixture(scope="module")
def sieved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(policy.EFFORTS, "normal", tuned(PLAIN, document_of(0)["policy"]))
        patch.setitem(BATCH_TOKENS, "cpu", CPU_BATCH_TOKENS)
        return ranksieve.sieve(
            {"path": str(folder / "model"), "dtype": "float32"},
            pandas.read_json(folder / "films.jsonl", lines=True),
            prompt="Review: {{ text }} Mood:",
            answer="{{ label }}",
            choices=["good", "bad"],
            share=0.4,
            task={"data": {"sizes": SPLITS}},
            search={"max_evaluations": 20},
            resources={"actors": 1},
            data_dir=folder / "data",
            output=folder / "small",
            progress=False,
        )


def test_the_model_is_in_the_folder_and_loads(sieved):
    model = sieved.load()

    assert (sieved.folder.name, sieved.folder.parent.name) == ("model", "small")
    assert (sieved.folder / "config.json").is_file()
    assert model.num_parameters() == sieved.result["best"]["total_params"]
    assert type(model).__name__ == "LowRankLlamaForCausalLM"


def test_the_result_and_its_summary(sieved):
    assert 0 < sieved.result["best"]["kept_block_params"] <= 0.4
    assert "dense and sieved" in sieved.summary


def test_the_candidates_of_the_search(sieved):
    rows = pandas.DataFrame(sieved.candidates)

    assert len(rows) >= sieved.result["evaluations"] > 0
    assert rows["kept_share"].between(0, 0.4).all()
