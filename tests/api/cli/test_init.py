"""Job files that `ranksieve init` writes for small data files."""

import csv
import json

import pyarrow as arrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.api.cli.spec_file import load_spec
from ranksieve.workers.data.templates import Template

REVIEWS = [
    {"id": n, "text": f"A film of {n} minutes that I liked.", "label": "positive" if n % 3 else "negative"}
    for n in range(64)
]
QUESTIONS = [
    {
        "question": f"How long is a film of {n} minutes, told in all of its seconds?",
        "reply text": f"{60 * n} s",
    }
    for n in range(3000)
]
STARS = [{"Review": f"A film that took {n} minutes.", "stars": n % 5, "length": n / 7} for n in range(100)]


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_csv(path, records):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)


@pytest.fixture
def init(tmp_path, monkeypatch):
    """Runs the command in a folder that has the three data files."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "reviews.jsonl", REVIEWS)
    write_csv(tmp_path / "questions.csv", QUESTIONS)
    parquet.write_table(arrow.Table.from_pylist(STARS), tmp_path / "stars.parquet")

    def run(*arguments):
        return CliRunner().invoke(main.app, ["init", *map(str, arguments)])

    return run


def test_few_labels_make_a_choice(init, tmp_path):
    done = init("reviews.jsonl", "--model", "org/name")

    assert done.exit_code == 0, done.output
    spec = load_spec(tmp_path / "job.yaml", [tmp_path])
    assert (spec.model.hub, spec.task.kind) == ("org/name", "choice")
    assert spec.task.choices == ("negative", "positive")
    assert spec.task.data.source.path == f"{tmp_path}/reviews.jsonl"
    prompt = Template(spec.task.prompt, "task.prompt").render(REVIEWS[3], "record 3")
    assert prompt == "A film of 3 minutes that I liked.\nLabel:"
    assert "choices: negative, positive" in done.stdout
    assert done.stdout.endswith("  ranksieve estimate job.yaml\n  ranksieve run job.yaml\n")


def test_many_answers_are_generated(init, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "jobs").mkdir()
    done = init("questions.csv", "--model", "model", "-o", "jobs/questions.yaml")

    assert done.exit_code == 0, done.output
    spec = load_spec(tmp_path / "jobs" / "questions.yaml", [tmp_path])
    assert (spec.model.path, spec.task.kind) == (f"{tmp_path}/jobs/../model", "generate")
    assert Template(spec.task.answer, "task.answer").render(QUESTIONS[2], "record 2") == "120 s"
    assert spec.task.prompt.endswith("\nReply text:")


def test_numbers_may_be_labels(init, tmp_path):
    done = init("stars.parquet", "--model", "./tiny.gguf")

    assert done.exit_code == 0, done.output
    spec = load_spec(tmp_path / "job.yaml")
    assert spec.model.path == f"{tmp_path}/tiny.gguf"
    assert (spec.task.kind, spec.task.choices) == ("choice", ("0", "1", "2", "3", "4"))
    assert spec.task.prompt == "{{ Review }}\nStars:"


def test_texts_alone_are_predicted(init, tmp_path):
    write_jsonl(tmp_path / "texts.jsonl", [{"text": f"text {n}", "if": None} for n in range(40)])

    assert init("texts.jsonl", "--model", "org/name").exit_code == 0
    assert load_spec(tmp_path / "job.yaml").task.kind == "lm"


def test_the_last_message_of_a_chat_is_generated(init, tmp_path):
    chats = [
        {
            "prompt": f"Tell me of film {n}.",
            "messages": [
                {"role": "user", "content": f"Tell me of film {n}."},
                {"role": "assistant", "content": f"Film {n} is long.\n" * 8},
            ],
        }
        for n in range(40)
    ]
    write_jsonl(tmp_path / "chats.jsonl", chats)
    done = init("chats.jsonl", "--model", "org/name")

    assert done.exit_code == 0, done.output
    task = load_spec(tmp_path / "job.yaml").task
    assert (task.kind, task.chat_template, task.max_new_tokens) == ("generate", True, 64)
    assert (task.prompt, task.answer) == ("{{ messages[:-1] }}", "{{ messages[-1].content }}")
    assert "prompt: column 'messages' up to its last message, as a chat" in done.stdout


def test_few_last_messages_of_a_chat_make_a_choice(init, tmp_path):
    said = [("user", "Is it long?"), ("assistant", "yes"), ("user", "Is it good?")]
    turns = [{"role": role, "content": content} for role, content in said]
    answers = [{"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}]
    write_jsonl(tmp_path / "chats.jsonl", [{"a chat": [*turns, answers[n % 2]]} for n in range(40)])

    assert init("chats.jsonl", "--model", "org/name").exit_code == 0
    task = load_spec(tmp_path / "job.yaml").task
    assert (task.kind, task.choices, task.chat_template) == ("choice", ("no", "yes"), True)
    assert task.prompt == '{{ record["a chat"][:-1] }}'


def test_data_elsewhere_is_allowed_by_the_commands_that_are_told(init, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_jsonl(other / "reviews.jsonl", REVIEWS)

    done = init(other / "reviews.jsonl", "--model", "org/name")

    assert f"ranksieve run job.yaml --root {other}\n" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("gone.jsonl", None, "data: no file at gone.jsonl; check the path"),
        ("a.txt", "a", "data: a file of records ends in .jsonl, .csv, .parquet, got a.txt"),
        ("a.jsonl", "a", "data: a.jsonl line 1 is not JSON"),
        ("a.csv", "a,b\n1", "data: a.csv line 2 has 1 fields, expected the header's 2"),
        ("a.parquet", "a", "data: a.parquet is not a parquet file"),
        ("a.jsonl", "", "data: a.jsonl holds no records"),
        (
            "a.jsonl",
            '{"a": null, "b": []}\n' * 40,
            "data: expected a column with text or numbers in every record",
        ),
    ],
)
def test_data_that_does_not_do_says_why(init, tmp_path, name, content, error):
    if content is not None:
        (tmp_path / name).write_text(content)

    done = init(name, "--model", "org/name")

    assert done.exit_code == 2
    assert done.stderr.startswith(error)
    assert not (tmp_path / "job.yaml").exists()


def test_a_file_that_is_there_is_left_alone(init, tmp_path):
    (tmp_path / "job.yaml").write_text("mine")

    done = init("reviews.jsonl", "--model", "org/name")

    assert (done.exit_code, (tmp_path / "job.yaml").read_text()) == (2, "mine")
    assert done.stderr.startswith("output: job.yaml exists already; name another file with -o")
