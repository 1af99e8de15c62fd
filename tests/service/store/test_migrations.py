"""A database that any earlier version wrote is read by this one, and its jobs go on."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData

from ranksieve.search.errors import ConflictError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import JobState
from ranksieve.service.server.keys import ADMIN
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.store.engine import MIGRATIONS, migration_config, new_engine

HISTORY = list(ScriptDirectory(str(MIGRATIONS)).walk_revisions())
EARLIER = [script.revision for script in HISTORY if not script.is_head]

QUEUED, CUT_OFF = f"{1:024x}", f"{2:024x}"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def rows_of(spec: JobSpec) -> dict[str, list[dict[str, Any]]]:
    """What earlier versions wrote: a queued job, and one that was cut off after a generation."""
    queued = {
        "id": QUEUED, "spec": spec.canonical(), "state": "queued", "cancel_requested": False,
        "created_at": AT, "event_count": 1,
    }  # fmt: skip
    cut_off = {**queued, "id": CUT_OFF, "state": "searching", "event_count": 2}
    told = {"job_id": CUT_OFF, "type": "job.state", "at": AT}
    candidate = {
        "job_id": CUT_OFF, "generation": 0, "examples": 64, "genome": [16, -1], "kept_share": 0.4,
        "kl_nats": 0.1, "drop_points": 1.0, "metric": 0.8, "tokens": 10, "seconds": 0.5,
    }  # fmt: skip
    return {
        "jobs": [queued, cut_off],
        "events": [{**told, "seq": seq, "data": {"state": state}} for seq, state in [(1, "queued"), (2, "searching")]],
        "generations": [{"job_id": CUT_OFF, "generation": 0, "record": {"generation": 0}}],
        "candidates": [candidate],
        "search_states": [{"job_id": CUT_OFF, "state": {"next": 1}}],
        "labels": [{"job_id": id, "name": "team", "value": "nlp"} for id in (QUEUED, CUT_OFF)],
    }  # fmt: skip


def fill(connection: Connection, rows: dict[str, list[dict[str, Any]]]) -> None:
    tables = MetaData()
    tables.reflect(connection)
    for name, values in rows.items():
        if name not in tables.tables:
            continue  # it came later, and is filled by its migration
        connection.execute(tables.tables[name].insert(), values)


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    engine = new_engine(store_url)
    yield engine
    engine.dispose()


def test_there_are_earlier_schemas() -> None:
    assert {"0001", "0002"} <= {script.revision for script in HISTORY}


@pytest.mark.parametrize("revision", EARLIER)
def test_a_store_of_an_earlier_version_goes_on(
    engine: Engine, store_url: str, make_spec: Callable[..., JobSpec], revision: str
) -> None:
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), revision)
        document = make_spec("reviews", team="nlp").canonical()
        document["projection"]["propagated_shares"] = []
        spec = JobSpec.model_validate(document)
        fill(connection, rows_of(spec))

    store = Store(store_url)
    try:
        store.open()
        assert [job.id for job in store.jobs()] == [CUT_OFF, QUEUED]
        assert store.job(QUEUED).spec == spec
        assert [job.id for job in store.jobs(labels=["team:nlp"])] == [CUT_OFF, QUEUED]
        assert store.job(QUEUED).created_at == AT
        assert store.generations(CUT_OFF) == [{"generation": 0}]
        assert store.search_state(CUT_OFF) == {"next": 1}
        [candidate] = store.memo(CUT_OFF)
        assert (candidate["genome"], candidate["loss_nats"]) == ([16, -1], None)

        webhook, _ = store.webhooks.create(ADMIN, "https://hooks.example.com/", [JobState.VALIDATING])
        claimed = store.claim_next()
        assert claimed is not None
        assert (claimed.id, claimed.state) == (CUT_OFF, JobState.VALIDATING)
        assert [event.seq for event in store.events(CUT_OFF)] == [1, 2, 3]
        assert [one.job_id for one in store.webhooks.deliveries(webhook.id)] == [CUT_OFF]
        assert store.append_event(CUT_OFF, EventType.DATA_LOADED, {}, epoch=claimed.epoch).seq == 4
    finally:
        store.close()


def test_who_only_uses_a_store_of_an_earlier_version_changes_nothing_of_it(
    engine: Engine, store_url: str
) -> None:
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "0016")
    store = Store(store_url)
    try:
        with pytest.raises(ConflictError, match="is not of this version of ranksieve: start its server once"):
            store.jobs()
        with engine.connect() as connection:
            assert MigrationContext.configure(connection).get_current_revision() == "0016"
        store.open()
        assert store.jobs() == []
    finally:
        store.close()


def test_keys_of_before_keep_how_long_they_were_made_for(engine: Engine, store_url: str) -> None:
    key = {"owner": "alice", "scope": "read", "digest": "0" * 64, "created_at": datetime.now(UTC)}
    month = timedelta(days=30)
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "0013")
        rows = [
            {**key, "id": "00000000000a", "expires_at": None},
            {**key, "id": "00000000000b", "expires_at": key["created_at"] + month},
        ]
        fill(connection, {"api_keys": rows})

    store = Store(store_url)
    try:
        store.open()
        assert store.keys.rotate("00000000000a")[0].expires_at is None
        replaced, _ = store.keys.rotate("00000000000b")
        assert replaced.expires_at == replaced.created_at + month
    finally:
        store.close()


@pytest.mark.parametrize(
    ("before", "objective", "method", "shares"),
    [
        ("0012", {"kind": "max_drop"}, "task", ()),
        ("0012", {"kind": "max_drop"}, "output", None),
        ("0012", {"kind": "target_params", "share": 0.4}, "task", None),
        ("0014", {"kind": "target_bytes", "share": 0.4}, "task", ()),
        ("0014", {"kind": "target_latency", "share": 0.4}, "task", ()),
        ("0014", {"kind": "target_latency", "share": 0.4}, "output", None),
        ("0014", {"kind": "max_drop"}, "task", None),
    ],
)
def test_jobs_of_before_errors_were_propagated_for_their_objective_stay_without(
    engine: Engine,
    store_url: str,
    make_spec: Callable[..., JobSpec],
    before: str,
    objective: dict[str, object],
    method: str,
    shares: object,
) -> None:
    document = make_spec().canonical() | {"objective": objective, "projection": {"method": method}}
    spec = JobSpec.model_validate(document)
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), before)
        fill(connection, rows_of(spec))

    store = Store(store_url)
    try:
        store.open()
        kept = store.job(QUEUED).spec
        assert kept.projection.propagated_shares == shares
        assert kept.propagated_shares() == (spec.propagated_shares() if shares is None else ())
    finally:
        store.close()


@pytest.mark.parametrize(("method", "shares"), [("task", ()), ("output", None)])
def test_jobs_of_before_errors_were_propagated_stay_without(
    engine: Engine, store_url: str, make_spec: Callable[..., JobSpec], method: str, shares: object
) -> None:
    document = make_spec().canonical() | {"objective": {"kind": "target_params", "share": 0.4}}
    new = JobSpec.model_validate(document | {"projection": {"method": method}})
    assert new.propagates == (method == "task")
    old = new.canonical()
    del old["projection"]["propagated_shares"]
    rows = rows_of(new)
    rows["jobs"][0]["spec"] = old
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "0011")
        fill(connection, rows)

    store = Store(store_url)
    try:
        store.open()
        assert store.job(QUEUED).spec.projection.propagated_shares == shares
        assert store.job(QUEUED).spec.propagated_shares() == ()
        assert store.job(CUT_OFF).spec == new
    finally:
        store.close()
    with engine.begin() as connection:
        command.downgrade(migration_config(connection), "0011")
        tables = MetaData()
        tables.reflect(connection, only=["jobs"])
        specs = connection.execute(tables.tables["jobs"].select()).all()
    assert [row.spec if isinstance(row.spec, dict) else json.loads(row.spec) for row in specs] == [old, old]
