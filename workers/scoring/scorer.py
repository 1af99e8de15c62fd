"""Scorer of candidates on the task, without Ray.

Legend: E examples, C choices, N answer tokens of a batch, V vocabulary, A belief rows, K outcomes of a belief.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ranksieve.search.errors import ScoringError
from ranksieve.workers.forward.agreement import continues_prompts
from ranksieve.workers.forward.batches import Batch, make_batches
from ranksieve.workers.forward.generation import answers, read_once, write_alone
from ranksieve.workers.forward.likelihood import Predicted, answer_logits, right_share, slot_log_likelihoods
from ranksieve.workers.machine.devices import lack_of_memory
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.divergence import coarse_kl, kl_rows
from ranksieve.workers.types.answer_fields import field_f1
from ranksieve.workers.types.metrics import exact_match, token_f1
from ranksieve.workers.types.plan import EncodedTask, Example
from ranksieve.workers.types.scores import (
    Beliefs,
    Failure,
    ScoreRequest,
    Scores,
)

TOP_TOKENS = 64


class _NotFiniteError(ScoringError):
    """Non-finite logits of a candidate."""


class Scorer:
    """Scorer of one model's candidates on one task.

    Args:
        model: The model with its switchable matrices.
        tokenizer: Decodes generated answers.
        task: The encoded task.
        batch_tokens: Padded tokens per forward pass.
    """

    def __init__(
        self, model: SwitchableModel, tokenizer: PreTrainedTokenizerBase, task: EncodedTask, batch_tokens: int
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._task = task
        self._batch_tokens = batch_tokens
        self._shares = read_once(task) and continues_prompts(model.model, tokenizer, task, batch_tokens)
        self._batches: dict[tuple[str, int, int], list[Batch]] = {}
        self._beliefs: dict[str, Beliefs] = {}

    def set_beliefs(self, beliefs: Mapping[str, Beliefs]) -> None:
        """Set the dense model's beliefs per split; without them no KL is computed."""
        self._beliefs = dict(beliefs)

    def score(self, request: ScoreRequest) -> Scores | Failure:
        """Score a candidate; return its own faults as a `Failure`.

        These are logits that are not finite, and lack of memory.
        """
        try:
            scores, _ = self._run(request, want_beliefs=False)
        except ScoringError as error:
            return Failure(reason=str(error))
        except (RuntimeError, MemoryError) as error:
            if (lack := lack_of_memory(error)) is None:
                raise
            return Failure(reason=lack)
        return scores

    def score_dense(self, request: ScoreRequest) -> tuple[Scores, Beliefs]:
        """Score the dense model and return its beliefs, the reference of every candidate.

        Raises:
            ScoringError: The dense model itself fails on these examples.
        """
        try:
            scores, beliefs = self._run(request, want_beliefs=True)
        except _NotFiniteError as error:
            raise ScoringError(
                f"the dense model's logits are not finite on {request.split}; try model.dtype: float32, or look for "
                "broken records"
            ) from error
        assert beliefs is not None
        return scores, beliefs

    @torch.inference_mode()
    def _run(self, request: ScoreRequest, *, want_beliefs: bool) -> tuple[Scores, Beliefs | None]:
        started = time.perf_counter()
        self._model.switch(request.ranks)
        examples = self._task.splits[request.split][request.start : request.stop]
        reference = self._beliefs.get(request.split)
        if reference is not None:
            reference = reference.part(request.start, request.stop)
        beliefs: Beliefs | None
        if self._task.kind == "choice":
            scores, beliefs = self._choose(request, examples, reference)
        else:
            scores, beliefs = self._predict(request, examples, reference, want_beliefs=want_beliefs)
        tokens = sum(len(row.ids) for example in examples for row in example.rows)
        elapsed = time.perf_counter() - started
        return Scores(**scores, tokens=tokens, seconds=elapsed), beliefs

    def _choose(
        self, request: ScoreRequest, examples: Sequence[Example], reference: Beliefs | None
    ) -> tuple[dict[str, np.ndarray], Beliefs]:
        choices = self._choices(request.split)
        logp_EC = torch.zeros(len(examples), choices, dtype=torch.float64)
        for part in self._predicted(request, examples):
            logp_EC += slot_log_likelihoods(part.logits_NV, part, len(examples), choices).cpu()
            del part  # free its logits before the next part
        counts_E = torch.tensor([example.choices for example in examples])
        logp_EC[torch.arange(choices)[None] >= counts_E[:, None]] = -torch.inf
        belief_EC = logp_EC.log_softmax(dim=1).numpy()
        labels_E = np.array([example.label for example in examples])
        right_E = right_share(logp_EC, torch.from_numpy(labels_E)).numpy()
        scores = {
            "quality": right_E,
            "exact": right_E,
            "nll_nats": -belief_EC[np.arange(len(examples)), labels_E],
            "answer_tokens": np.ones(len(examples)),
            "kl_nats": np.zeros(len(examples))
            if reference is None
            else kl_rows(reference.logp_AK.astype(np.float64), belief_EC),
        }
        beliefs = Beliefs(
            logp_AK=belief_EC.astype(np.float32),
            token_AK=np.tile(np.arange(choices, dtype=np.int32), (len(examples), 1)),
            offset_E=np.arange(len(examples) + 1),
        )
        return scores, beliefs

    def _predict(
        self,
        request: ScoreRequest,
        examples: Sequence[Example],
        reference: Beliefs | None,
        *,
        want_beliefs: bool,
    ) -> tuple[dict[str, np.ndarray], Beliefs | None]:
        counts_E = np.array([example.answer_tokens for example in examples])
        offset_E = np.concatenate([[0], np.cumsum(counts_E)])
        nll_A = np.zeros(offset_E[-1])
        kl_A = np.zeros(offset_E[-1])
        outcomes = min(TOP_TOKENS, self._model.model.config.get_text_config().vocab_size)
        top_AK = np.zeros((offset_E[-1], outcomes), dtype=np.float32)
        token_AK = np.zeros((offset_E[-1], outcomes), dtype=np.int32)
        texts: list[str | None] = [None] * len(examples)
        for part in self._predicted(request, examples):
            logp_NV = part.logits_NV.log_softmax(dim=1)
            rows_N = np.concatenate([np.arange(offset_E[e], offset_E[e + 1]) for e in part.examples])
            nll_A[rows_N] = -logp_NV.gather(1, part.token_N[:, None])[:, 0].double().cpu().numpy()
            for index, text in zip(part.examples, part.texts, strict=True):
                texts[index] = text
            if reference is not None:
                kl_A[rows_N] = coarse_kl(logp_NV, reference.logp_AK[rows_N], reference.token_AK[rows_N])
            if want_beliefs:
                top = logp_NV.topk(outcomes, dim=1)
                top_AK[rows_N], token_AK[rows_N] = top.values.cpu().numpy(), top.indices.cpu().numpy()
            del part, logp_NV  # free them before the next part
        nll_E = np.add.reduceat(nll_A, offset_E[:-1])
        scores = {
            **(
                _text_quality(texts, examples, objects=self._task.objects)
                if self._task.kind == "generate"
                else _likelihood_quality(nll_E)
            ),
            "nll_nats": nll_E,
            "answer_tokens": counts_E.astype(np.float64),
            "kl_nats": np.add.reduceat(kl_A, offset_E[:-1]) / counts_E,
        }
        if not want_beliefs:
            return scores, None
        return scores, Beliefs(logp_AK=top_AK, token_AK=token_AK, offset_E=offset_E)

    def _predicted(self, request: ScoreRequest, examples: Sequence[Example]) -> Iterator[Predicted]:
        """Yield all answers of the examples; raise if their logits are not finite."""
        read = self._read_once if self._shares else self._row_by_row
        for part in read(request, examples):
            if not torch.isfinite(part.logits_NV).all():
                raise _NotFiniteError("the candidate's logits are not finite")
            yield part
            del part  # the caller may have dropped it

    def _read_once(self, request: ScoreRequest, examples: Sequence[Example]) -> Iterator[Predicted]:
        return answers(
            self._model.model,
            self._tokenizer,
            examples,
            self._choices(request.split),
            self._batch_tokens,
            new_tokens=self._new_tokens,
            several_lines=self._task.several_lines,
            write=not request.loss_only,
        )

    def _row_by_row(self, request: ScoreRequest, examples: Sequence[Example]) -> Iterator[Predicted]:
        new_tokens = 0 if request.loss_only else self._new_tokens
        for batch in self._batched(request, examples):
            yield Predicted(
                examples=batch.examples,
                logits_NV=answer_logits(self._model.model, batch),
                token_N=batch.token_N,
                slot_N=batch.slot_N,
                texts=tuple(
                    write_alone(
                        self._model.model,
                        self._tokenizer,
                        examples[index],
                        new_tokens,
                        several_lines=self._task.several_lines,
                    )
                    for index in batch.examples
                ),
            )

    @property
    def _new_tokens(self) -> int:
        """Most tokens that the model writes itself."""
        return self._task.max_new_tokens if self._task.kind == "generate" else 0

    def _choices(self, split: str) -> int:
        """Return the most choices in the whole split: its parts' beliefs have one width."""
        return max(example.choices for example in self._task.splits[split])

    def _batched(self, request: ScoreRequest, examples: Sequence[Example]) -> list[Batch]:
        key = (request.split, request.start, request.stop)
        if key not in self._batches:
            batches = make_batches(examples, self._choices(request.split), self._batch_tokens)
            self._batches[key] = [batch.to(self._model.model.device) for batch in batches]
        return self._batches[key]


def _text_quality(
    texts: Sequence[str | None], examples: Sequence[Example], *, objects: bool
) -> dict[str, np.ndarray]:
    """Return `quality` and `exact` of written answers, NaN without one."""
    pairs = [(text, example.references) for text, example in zip(texts, examples, strict=True)]

    def measured(measure: Callable[[str, Sequence[str]], float]) -> np.ndarray:
        return np.array([np.nan if text is None else measure(text, right) for text, right in pairs])

    if objects:
        quality = measured(field_f1)
        return {"quality": quality, "exact": np.floor(quality)}
    return {"quality": measured(token_f1), "exact": measured(exact_match)}


def _likelihood_quality(nll_E: np.ndarray) -> dict[str, np.ndarray]:
    """Return `quality` and `exact` without written answers."""
    return {"quality": -nll_E, "exact": np.zeros(len(nll_E))}
