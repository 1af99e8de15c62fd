import json
from pathlib import Path

import numpy as np
import pytest

from ranksieve.search.errors import InputError
from ranksieve.workers.export.evaluation import choose_answers, evaluate_folder
from ranksieve.workers.export.writer import ExportPlan, export
from ranksieve.workers.types.plan import DataPlan, RecordSource, TaskPlan

TASK = TaskPlan(
    kind="choice", prompt="w1 {{ text }} w2", answer="{{ label }}", choices={"good": "w3 w4", "bad": "w5"}
)


@pytest.fixture
def data(tmp_path: Path) -> DataPlan:
    records = [
        {"text": f"w{i % 40} w{i % 7}", "label": "good" if i % 3 else "bad", "id": i} for i in range(60)
    ]
    file = tmp_path / "films.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = RecordSource(field="task.data.source", path=file)
    return DataPlan(source=source, sizes={"search": 10, "test": 20})


def test_exported_model_at_work(export_plan: ExportPlan, data: DataPlan) -> None:
    list(export(export_plan))
    metric_name, scores = evaluate_folder(export_plan.folder, TASK, data, "test", batch_tokens=64, threads=1)
    assert (metric_name, len(scores.quality)) == ("accuracy", 20)
    answers = choose_answers(export_plan.folder, TASK, data, 20)
    assert [float(right == chosen) for _, right, chosen in answers] == scores.quality.tolist()
    assert len(choose_answers(export_plan.folder, TASK, data, 3)) == 3


def test_an_example_with_fewer_choices_is_given_one_of_its_own(llama_folder: Path, tmp_path: Path) -> None:
    offered = [["w3", "w4"], ["w3", "w4", "w5", "w6"]]
    records = [
        {"text": f"w{i % 40} w{i % 7}", "offered": offered[i % 2], "label": "w3", "id": i} for i in range(60)
    ]
    file = tmp_path / "offers.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = RecordSource(field="task.data.source", path=file)
    task = TaskPlan(kind="choice", prompt="w1 {{ text }} w2", answer="{{ label }}", choices_field="offered")
    data = DataPlan(source=source, sizes={"test": 20})
    answers = choose_answers(llama_folder, task, data, 20)
    _, scores = evaluate_folder(llama_folder, task, data, "test", batch_tokens=64, threads=1)
    assert [float(right == chosen) for _, right, chosen in answers] == scores.quality.tolist()
    assert scores.quality.any()


def test_plain_model_at_work(llama_folder: Path, data: DataPlan) -> None:
    _, scores = evaluate_folder(llama_folder, TASK, data, "search", batch_tokens=64, threads=1)
    assert len(scores.quality) == 10
    assert np.isfinite(scores.nll_nats).all()
    (prompt, right, chosen), *_ = choose_answers(llama_folder, TASK, data, 2)
    assert prompt.startswith("w1 ")
    assert {right, chosen} <= {0, 1}


def test_unknown_split_and_missing_model(llama_folder: Path, data: DataPlan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split: must be one of search, test, got 'confirm'"):
        evaluate_folder(llama_folder, TASK, data, "confirm", batch_tokens=64, threads=1)
    with pytest.raises(InputError, match="model_dir"):
        evaluate_folder(tmp_path, TASK, data, "test", batch_tokens=64, threads=1)
