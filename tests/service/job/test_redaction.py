from pathlib import Path

import pytest

from ranksieve.service.job.redaction import hide_folders, redact, redact_values
from ranksieve.service.server.keys import new_token

TOKEN = new_token()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"got {TOKEN}!", f"got {TOKEN[:17]}[redacted]!", id="key"),
        ("token=hf_abcdefghijklmnopqrstuvwxyz012345", "token=hf_[redacted]"),
        ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD/=", "whsec_[redacted]"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer [redacted]"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: basic [redacted]"),
        ("postgresql://me:s3cret@db/jobs", "postgresql://me:[redacted]@db/jobs"),
        ("https://:s3cret@host/x", "https://:[redacted]@host/x"),
        ("the key is swordfish", "the key is [redacted]"),
        ("http://127.0.0.1:8765/a@b", "http://127.0.0.1:8765/a@b"),
        ("a bearer of news: rsk_ and hf_x", "a bearer of news: rsk_ and hf_x"),
    ],
)
def test_secrets_go_and_all_else_stays(text: str, expected: str) -> None:
    assert redact(text, ["swordfish"]) == expected


@pytest.mark.parametrize("text", ["a.", "://", "://a:b", "Bearer ", "hf_", "whsec_-", "rsk_0", "a://b:c@d "])
def test_no_text_takes_long(text: str) -> None:
    redact(text * 500_000)  # to try it anew at every word would take an hour


def test_values_are_redacted_at_any_depth() -> None:
    values = {"a": [TOKEN, 1, None, {"b": (TOKEN,)}], "c": 0.5, "d": True}

    gone = f"{TOKEN[:17]}[redacted]"
    assert redact_values(values) == {"a": [gone, 1, None, {"b": [gone]}], "c": 0.5, "d": True}


def test_paths_are_relative_to_the_innermost_folder():
    folders = [Path("/srv"), Path("/srv/data"), Path("/")]
    told = {"at": ["/srv/data/jobs/7", 3, None, "in /srv/m/a.json, /srv/data or /tmp"]}

    assert hide_folders(told, folders) == {"at": ["jobs/7", 3, None, "in m/a.json, data or /tmp"]}
