from collections.abc import Callable
from dataclasses import replace

import pytest

from ranksieve.search.errors import ScoringError
from ranksieve.workers.rivals.classifiers import bag_of_words, probes
from ranksieve.workers.rivals.rival import Setup, whole


@pytest.fixture
def _sklearn() -> None:
    pytest.importorskip("sklearn", reason="needs the extra compare")


@pytest.mark.usefixtures("_sklearn")
def test_words_that_tell_the_answer_are_found(setup: Setup) -> None:
    examples = {
        name: tuple(replace(one, prompt_ids=(3 + one.label, *one.prompt_ids)) for one in split)
        for name, split in setup.task.splits.items()
    }
    easy = replace(setup, task=replace(setup.task, splits=examples))
    (rival,) = bag_of_words(easy)
    assert rival.score(whole(easy, "test")).quality.mean() > 0.9
    assert rival.size_bytes > 0


@pytest.mark.usefixtures("_sklearn")
def test_probes_are_smaller_with_fewer_blocks(setup: Setup) -> None:
    names, sizes = [], []
    for rival in probes(setup):
        names.append(rival.name)
        sizes.append(rival.size_bytes)
        assert rival.score(whole(setup, "test")).quality.mean() > 0.55
    assert names == ["linear probe on 2 of 2 blocks", "linear probe on 1 of 2 blocks"]
    assert sizes[1] < sizes[0]


@pytest.mark.usefixtures("_sklearn")
@pytest.mark.parametrize("make", [bag_of_words, probes])
def test_records_of_one_label_are_no_lesson(setup: Setup, make: Callable[[Setup], object]) -> None:
    splits = {
        name: tuple(replace(one, label=0) for one in split) for name, split in setup.task.splits.items()
    }
    with pytest.raises(ScoringError, match="the same label"):
        list(make(replace(setup, task=replace(setup.task, splits=splits))))  # type: ignore[call-overload]
