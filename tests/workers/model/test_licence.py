from pathlib import Path

import pytest

from ranksieve.workers.model.licence import licence_of
from ranksieve.workers.types.plan import ModelSource


def licence(folder: Path, card: str) -> dict[str, str]:
    (folder / "README.md").write_text(card, encoding="utf-8")
    return licence_of(ModelSource(kind="path", location=str(folder)))


def test_the_licence_is_the_one_that_the_models_card_states(tmp_path: Path) -> None:
    card = "---\nlicense: other\nlicense_name: llama3\ntags: [x]\n---\n# A model\n"
    assert licence(tmp_path, card) == {"license": "other", "license_name": "llama3"}


@pytest.mark.parametrize(
    "card",
    ["no metadata", "---\nlicense: [\n---\n", "---\n- mit\n---\n", "---\nlicense: [mit]\n---\n", "x" * 2**21],
)
def test_a_card_that_states_none_is_no_error(tmp_path: Path, card: str) -> None:
    assert licence(tmp_path, card) == {}
    assert licence_of(ModelSource(kind="path", location=str(tmp_path / "none"))) == {}
