"""Tables of candidates and generations as CSV and Parquet: read back, they are the JSON rows."""

import csv
import io
import json

import pytest
from pyarrow import parquet, types
from sqlalchemy import update

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.http.routes import tables
from ranksieve.search.errors import InfrastructureError, StoreError
from ranksieve.service.server.keys import Scope
from ranksieve.service.store.schema import CandidateRow
from ranksieve.service.store.view import View

KINDS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}


def read(kind, content):
    """The columns and rows of a table; of CSV with the values that its cells are the text of."""
    if kind == "parquet":
        table = parquet.read_table(io.BytesIO(content))
        return table.column_names, table.to_pylist()
    columns, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    return columns, [
        {name: _value(name, cell) for name, cell in zip(columns, row, strict=True)} for row in rows
    ]


def _value(name, cell):
    if not cell:
        return None
    return cell if name == "failure" else json.loads(cell)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "query",
    [
        {},
        {"generation": 0},
        {"pareto": True},
        {"fields": ["ranks", "failure", "kept_share"]},
        {"pareto": True, "fields": ["kl_nats"]},
        {"generation": 7, "fields": ["id"]},
    ],
)
def test_a_table_of_candidates_has_the_rows_of_json(http, done, small_batches, kind, query):
    url = f"/v1/jobs/{done['id']}/candidates"
    page = http.get(url, params=query).json()["candidates"]

    answer = http.get(url, params={**query, "format": kind})
    columns, rows = read(kind, answer.content)

    assert rows == page
    assert columns == query.get("fields", list(http.get(url).json()["candidates"][0]))
    assert answer.headers["content-type"] == KINDS[kind]
    assert answer.headers["content-disposition"] == f'attachment; filename="candidates-{done["id"]}.{kind}"'


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_generations_has_the_rows_of_json(http, client, spec, pipeline, small_batches, kind):
    pipeline.generations = 3
    job_id = client.submit(spec)["id"]
    list(client.events(job_id))

    answer = http.get(f"/v1/jobs/{job_id}/generations", params={"format": kind})

    _, rows = read(kind, answer.content)
    assert [row["generation"] for row in rows] == [0, 1, 2]
    assert rows == client.generations(job_id)


@pytest.mark.parametrize("what", ["candidates", "generations"])
def test_tables_of_a_job_without_a_search_have_columns(http, client, done, spec, pipeline, what):
    whole = http.get(f"/v1/jobs/{done['id']}/{what}").json()[what]
    pipeline.generations = 0
    job_id = client.submit(spec)["id"]
    list(client.events(job_id))

    found = {kind: http.get(f"/v1/jobs/{job_id}/{what}", params={"format": kind}).content for kind in KINDS}

    assert {kind: read(kind, content) for kind, content in found.items()} == dict.fromkeys(
        KINDS, (list(whole[0]), [])
    )
    schema = parquet.read_schema(io.BytesIO(found["parquet"]))
    assert types.is_int64(schema.field("generation").type)
    assert types.is_float64(schema.field("loss_nats").type)
    if what == "candidates":
        assert types.is_list(schema.field("ranks").type)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_is_no_formula_in_csv(http, application, done, start):
    text = f'{start}HYPERLINK("http://a.example","b")\n'
    with application.store.database.writing() as session:
        session.execute(update(CandidateRow).values(failure=text, drop_points=-1.5))
    url, fields = f"/v1/jobs/{done['id']}/candidates", ["drop_points", "failure"]

    cells = read("csv", http.get(url, params={"format": "csv", "fields": fields}).content)[1]
    values = read("parquet", http.get(url, params={"format": "parquet", "fields": fields}).content)[1]

    assert cells == [{"drop_points": -1.5, "failure": f"'{text}"}] * 2
    assert values == [{"drop_points": -1.5, "failure": text}] * 2


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", KINDS["csv"]),
        ("application/vnd.apache.parquet, text/csv;q=0.5", KINDS["parquet"]),
        ("application/json, text/csv", "application/json"),
        ("text/html, */*", "application/json"),
    ],
)
def test_accept_names_the_format(shared, shared_job, accept, kind):
    url = f"/v1/jobs/{shared_job['id']}/generations"

    assert shared.get(url, headers={"Accept": accept}).headers["content-type"] == kind
    forced = shared.get(url, params={"format": "json"}, headers={"Accept": accept})
    assert forced.headers["content-type"] == "application/json"


@pytest.mark.parametrize("what", ["candidates", "generations"])
@pytest.mark.parametrize(
    ("query", "field", "detail"),
    [
        ({"format": "xlsx"}, "format", "'json', 'csv' or 'parquet'; got 'xlsx'"),
        ({"format": "csv", "limit": 5}, "limit", "not allowed with format csv"),
        ({"format": "parquet", "after": 1}, "after", "not allowed with format parquet"),
    ],
)
def test_refused_tables(shared, shared_job, what, query, field, detail):
    answer = shared.get(f"/v1/jobs/{shared_job['id']}/{what}", params=query)

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert detail in error["detail"]


@pytest.mark.parametrize("what", ["candidates", "generations"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_job_of_another_owner_has_no_table(http, application, done, what, kind):
    _, secret = application.store.keys.create("eve", Scope.READ)

    answer = http.get(
        f"/v1/jobs/{done['id']}/{what}",
        params={"format": kind},
        headers={"Authorization": f"Bearer {secret}"},
    )

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_a_table_that_cannot_be_read_to_its_end_breaks_off(
    build, settings, spec, small_batches, monkeypatch, tmp_path
):
    whole = View.candidates

    def candidates(*args, after, **options):
        if after is not None:
            raise StoreError("the disk is gone")
        return whole(*args, after=after, **options)

    with embedded(build(settings)) as client:
        job_id = client.submit(spec)["id"]
        list(client.events(job_id))
        monkeypatch.setattr(View, "candidates", candidates)
        for kind in KINDS:
            with pytest.raises(InfrastructureError, match="broke off"):
                client.table(job_id, "candidates", tmp_path / f"part.{kind}")
    assert not list(tmp_path.glob("*part*"))
