import pytest

from ranksieve.workers.rivals import lora as module
from ranksieve.workers.rivals.dense import dense
from ranksieve.workers.rivals.lora import lora
from ranksieve.workers.rivals.rival import Setup, whole

pytest.importorskip("peft", reason="needs the extra compare")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_merged_adapters_beat_the_dense_model_at_its_size(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEARNING_RATES", (1e-2,))
    (tuned,), (bare, _) = lora(setup), dense(setup)
    assert tuned.size_bytes == bare.size_bytes
    after, before = (one.score(whole(setup, "test")).nll_nats.mean() for one in (tuned, bare))
    assert after < 0.95 * before
