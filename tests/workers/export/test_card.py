from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from ranksieve.workers.export.card import model_card
from ranksieve.workers.export.writer import ExportPlan


def card(plan: ExportPlan, provenance: dict[str, Any]) -> ModelCard:
    """The card, read back by the hub's own parser."""
    text = model_card(
        provenance,
        plan.matrices,
        plan.ranks,
        heads=["`AutoModel`"],
        least_transformers="5.24",
        bits=None,
        file_bytes=1,
    )
    return ModelCard(text)


def test_a_hub_reads_where_the_model_comes_from_and_what_it_scored(
    export_plan: ExportPlan, provenance: dict[str, Any]
) -> None:
    licence = {"license": "other", "license_name": "some: licence", "license_link": "LICENSE"}
    provenance |= {
        "model": {"hub": "some/model", "revision": None, "adapter": False, "licence": licence},
        "datasets": ["some/reviews"],
    }
    data = card(export_plan, provenance).data.to_dict()
    (index,) = data.pop("model-index")
    assert data == {
        "base_model": "some/model",
        **licence,
        "datasets": ["some/reviews"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["ranksieve", "low-rank", "pruned"],
        "metrics": ["accuracy"],
    }
    assert index["name"] == "Small films"
    (result,) = index["results"]
    assert result["dataset"] == {"name": "some/reviews", "type": "some/reviews", "split": "test"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.8)
    assert metric["args"] == {"confidence": 0.95, "interval": [0.7, 0.9]}


def test_a_local_model_on_private_records_names_neither(
    export_plan: ExportPlan, provenance: dict[str, Any]
) -> None:
    provenance["name"] = ""
    read = card(export_plan, provenance)
    data = read.data.to_dict()
    assert not {"base_model", "license", "datasets"} & set(data)
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "private"
    assert "# Pruned model" in read.text


@pytest.mark.parametrize(
    ("metrics", "expected"), [({"search": 0.7, "confirm": 0.6}, ("confirm", 0.6)), ({"search": 0.7}, None)]
)
def test_no_result_is_one_that_the_search_chose_by(
    export_plan: ExportPlan,
    provenance: dict[str, Any],
    metrics: dict[str, float],
    expected: tuple[str, float] | None,
) -> None:
    provenance["summary"] |= {
        "export": {"job": "0abc", "search_examples": 16},
        "best": provenance["summary"]["best"] | {"metric": metrics, "interval": {}, "drop": {}},
    }
    results = card(export_plan, provenance).data.eval_results
    found = [(one.dataset_split, one.metric_value) for one in results or ()]
    assert found == ([] if expected is None else [expected])


def test_the_card_tells_what_was_removed_where_and_what_nobody_checked(
    export_plan: ExportPlan, provenance: dict[str, Any]
) -> None:
    first = [matrix for matrix in export_plan.matrices if matrix.layer == 0]
    ranks = [4] * len(export_plan.matrices)
    ranks[0], ranks[1], ranks[2] = -1, 0, 7
    text = card(replace(export_plan, ranks=tuple(ranks)), provenance).text
    kept = first[0].dense_params + first[2].price(7) + sum(m.price(4) for m in first[3:])
    share = 100 * kept / sum(m.dense_params for m in first)
    assert f"| 0 | 1 | 5 (rank 4 to 7) | {first[1].kind} | {share:.1f} % |" in text
    assert "| 1 | 0 | 7 (rank 4 to 4) |  |" in text
    assert "## Not checked" in text


def test_a_tuned_model_says_so(export_plan: ExportPlan, provenance: dict[str, Any]) -> None:
    provenance["summary"]["reference"] = {"tuned": True, "blocks": [2, 5]}
    text = card(export_plan, provenance).text
    assert "cut to 2 of its 5 blocks and tuned" in text
    assert "Blocks behind these were cut off." in text
    assert "output head are those of the tuned model" in text


def test_a_tuned_model_with_all_its_blocks_is_not_called_cut(
    export_plan: ExportPlan, provenance: dict[str, Any]
) -> None:
    provenance["summary"]["reference"] = {"tuned": True, "blocks": [5, 5]}
    text = card(export_plan, provenance).text
    assert "First the dense model was tuned on the calibration split's right answers." in text
    assert "cut" not in text.split("## Provenance")[0]


def test_many_removed_matrices_are_counted(export_plan: ExportPlan, provenance: dict[str, Any]) -> None:
    matrices = [replace(export_plan.matrices[0], name=f"0.{i}", layer=0, kind=f"m{i}") for i in range(9)]
    text = card(replace(export_plan, matrices=tuple(matrices), ranks=(0,) * 9), provenance).text
    assert "| 0 | 0 | 0 | 9 | 0.0 % |" in text
