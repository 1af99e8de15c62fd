from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from ranksieve.search.errors import InfrastructureError, InputError, ScoringError
from ranksieve.workers.rivals import comparison
from ranksieve.workers.rivals.comparison import Compared, ComparisonPlan, Skipped, chosen_kinds, compare
from ranksieve.workers.rivals.rival import Rival, Setup
from ranksieve.workers.types.progress import Progress


def plan_of(setup: Setup, *kinds: str) -> ComparisonPlan:
    return ComparisonPlan(
        folder=setup.folder,
        dtype="float32",
        task=setup.task,
        context=64,
        chat_template=False,
        kinds=kinds,
        batch_tokens=256,
        threads=1,
        device="cpu",
        seed=0,
    )


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the kinds of rivals."""

    def replace(**kinds: Any) -> None:
        made = {name: comparison._Kind(**fields) for name, fields in kinds.items()}
        monkeypatch.setattr(comparison, "KINDS", MappingProxyType(made))

    return replace


def test_all_are_scored_on_the_test_split_and_timed(setup: Setup) -> None:
    found = list(compare(plan_of(setup, "few-shot")))
    assert [one for one in found if isinstance(one, Progress)] == [
        Progress(phase="few-shot", done=0, total=1)
    ]
    rivals = [one for one in found if isinstance(one, Compared)]
    assert [one.kind for one in rivals] == ["dense", "dense", "few-shot"]
    assert all(len(one.scores.quality) == 40 for one in rivals)
    assert rivals[0].speedup == 1.0
    assert rivals[2].speedup < 1  # its prompts are longer
    for one in rivals:
        assert one.tokens_per_second == pytest.approx(one.speedup * rivals[0].tokens_per_second)


def test_what_the_task_does_not_allow_is_skipped(
    make_setup: Callable[..., Setup], use: Callable[..., None]
) -> None:
    def fails(_: Setup) -> Iterator[Rival]:
        raise ScoringError("it diverged")
        yield

    use(probe={"make": fails, "chooses": True}, lora={"make": fails})
    *_, first, _, second = compare(plan_of(make_setup("generate"), "probe", "lora"))
    assert first == Skipped(kind="probe", reason="needs answers that are the same few for every record")
    assert second == Skipped(kind="lora", reason="it diverged")


def test_kinds_keep_their_order(use: Callable[..., None]) -> None:
    use(quick={"make": iter}, slow={"make": iter})
    assert chosen_kinds(["slow", "quick"]) == chosen_kinds([]) == ["quick", "slow"]
    with pytest.raises(InputError, match="must be one of quick, slow, got 'fast'") as caught:
        chosen_kinds(["fast"])
    assert caught.value.field == "rival"


def test_a_missing_library_is_named_with_its_extra(use: Callable[..., None]) -> None:
    use(quick={"make": iter}, slow={"make": iter, "modules": ("no_such_library",)})
    assert chosen_kinds(["quick"]) == ["quick"]
    with pytest.raises(InfrastructureError, match=r"no_such_library.*pip install 'ranksieve\[compare\]'"):
        chosen_kinds([])
