"""Downloads of the client: targets, hostile names, broken transfers, and tables."""

import csv

import httpx2
import pytest
from pyarrow import parquet
from streams import CutStream

from ranksieve.api.client.client import Client
from ranksieve.api.client.connection import ApiError
from ranksieve.search.errors import InfrastructureError, InputError, NotFoundError, ScoringError


def test_download_writes_all_files(client, done, tmp_path):
    target = tmp_path / "model"

    paths = client.download(done["id"], target)

    assert paths == [target / "config.json", target / "tokenizer" / "vocab.txt"]
    assert (target / "config.json").read_text() == '{"ranks": [1, 2]}'
    assert sorted(path.name for path in target.rglob("*")) == ["config.json", "tokenizer", "vocab.txt"]


def test_target_with_another_model(client, done, tmp_path):
    target = tmp_path / "model"
    client.download(done["id"], target)
    (target / ".gitattributes").write_text("")
    (tmp_path / "notes").write_text("")
    client.download(done["id"], target)  # again, as after a transfer that broke
    (target / "model-00001-of-00002.safetensors").write_text("")

    with pytest.raises(InputError, match=r"output: must hold no other model; .*model-00001-of-00002.safet"):
        client.download(done["id"], target)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil", ""])
def test_names_outside_the_target(tmp_path, name):
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, json={"artifacts": [{"name": "fine", "bytes": 1}, {"name": name, "bytes": 1}]}
        )

    with (
        Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(InfrastructureError, match="outside"),
    ):
        client.download("1", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_link_out_of_the_target(client, done, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model" / "tokenizer").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(InfrastructureError, match="outside"):
        client.download(done["id"], tmp_path / "model")


@pytest.mark.parametrize(
    ("answered", "error"),
    [
        (lambda: httpx2.Response(200, stream=CutStream(httpx2.ByteStream(b"new!"), chunks=0)), "broke off"),
        (
            lambda: httpx2.Response(404, json={"title": "Not Found", "detail": "it was deleted"}),
            "was deleted",
        ),
    ],
)
def test_a_transfer_that_fails_keeps_the_old_file(tmp_path, answered, error):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("artifacts"):
            return httpx2.Response(200, json={"artifacts": [{"name": "config.json", "bytes": 4}]})
        return answered()

    (tmp_path / "config.json").write_text("old")
    with (
        Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client,
        pytest.raises((InfrastructureError, ApiError), match=error),
    ):
        client.download("1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "old"


def test_job_without_a_model(client, spec, pipeline, tmp_path):
    pipeline.failure = ScoringError("no")
    job = client.submit(spec)
    list(client.events(job["id"]))

    with pytest.raises(NotFoundError, match="is failed; it has no exported model"):
        client.download(job["id"], tmp_path)


@pytest.mark.parametrize("rows", ["candidates", "generations"])
def test_tables(client, done, rows, tmp_path):
    ids = {"candidates": "id", "generations": "generation"}
    saved = [one[ids[rows]] for one in getattr(client, rows)(done["id"])]

    client.table(done["id"], rows, tmp_path / "new" / "rows.csv")
    client.table(done["id"], rows, tmp_path / "new" / "rows.parquet")

    with (tmp_path / "new" / "rows.csv").open(newline="") as file:
        assert [int(row[ids[rows]]) for row in csv.DictReader(file)] == saved
    assert parquet.read_table(tmp_path / "new" / "rows.parquet")[ids[rows]].to_pylist() == saved


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", ".csv"])
def test_table_of_another_format(client, done, name, tmp_path):
    with pytest.raises(InputError, match=r"path: expected a name that ends in \.csv or \.parquet; got "):
        client.table(done["id"], "candidates", tmp_path / name)
    assert not (tmp_path / name).exists()
