"""The service inside this process, over a real socket."""

import gc
import time

import pytest

from ranksieve.api.cli.embedded import embedded
from ranksieve.search.errors import ConflictError, InfrastructureError
from ranksieve.service.server.settings import Settings


def test_a_job_over_a_real_socket(application, spec, tmp_path):
    with embedded(application) as client:
        job_id = client.submit(spec)["id"]
        events = list(client.events(job_id))
        client.download(job_id, tmp_path / "model")

    assert events[-1]["data"]["state"] == "succeeded"
    assert (tmp_path / "model" / "config.json").is_file()
    assert application.health()["healthy"] is False


def test_objects_of_the_caller_can_be_collected_again(application):
    with embedded(application):
        assert gc.get_freeze_count() > 0

    assert gc.get_freeze_count() == 0


def test_an_unfinished_job_waits_for_the_next_server(build, settings, pipeline, spec):
    pipeline.go.clear()
    with embedded(build(settings)) as client:
        job_id = client.submit(spec)["id"]
        pipeline.searching.wait()

    application = build(settings)
    assert application.store.job(job_id).state == "searching"
    application.store.close()


def test_the_key_is_used(build, tmp_path):
    with embedded(build(Settings(data_dir=tmp_path, api_key="s3cret"))) as client:
        assert client.jobs() == []


def test_a_data_directory_has_one_owner(build, settings):
    with embedded(build(settings)), pytest.raises(ConflictError, match="owns"), embedded(build(settings)):
        pass


def test_a_service_that_runs_no_job_any_more_answers_no_more(application):
    """Whoever follows a job would wait for ever."""

    def ask_until_it_is_gone(client):
        for _ in range(300):
            client.jobs()
            time.sleep(0.1)

    with embedded(application) as client:
        application.controller.on_failure()
        with pytest.raises(InfrastructureError, match="cannot reach"):
            ask_until_it_is_gone(client)
