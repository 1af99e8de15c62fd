"""The GPU path, on tensors of the processor that claim to lie on GPUs: what these would refuse is refused.

A storage knows which device it claims. An operation on tensors of two devices is refused, but for numbers and indices,
as torch does; so is numpy of a GPU's tensor, or a draw of a processor's generator on a GPU. What fakes cannot show is
how a GPU computes, how much it holds, and in which order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.cluster.actor import ScorerPlan, build_scorer
from ranksieve.workers.cost.workload import Workload
from ranksieve.workers.export.verification import VerificationPlan, verify
from ranksieve.workers.export.writer import ExportPlan, export
from ranksieve.workers.factors import calibration
from ranksieve.workers.factors.preparation import closed_form, prepare
from ranksieve.workers.factors.training import Training
from ranksieve.workers.types.plan import ModelSource
from ranksieve.workers.types.scores import ScoreRequest, Scores

CPU, META = torch.device("cpu"), torch.device("meta")
FIRST = torch.device("cuda", 0)

COPIES = {"copy_", "_to_copy", "_local_scalar_dense", "set_"}
"""Operations that may have a tensor of another device."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Those whose indices may lie on the processor."""

GROUPED = ("_foreach_", "_fused_")
"""Of many tensors at once, as optimizers want: torch groups them by device, where it does not see these fakes."""

MAKERS = {"from_numpy", "tensor", "frombuffer", "from_file"}
"""Functions whose tensors are the processor's, where they are told no device."""

RANKS, BATCH_TOKENS = (3, 4, 5, 6, 7), 64


def named(device: Any) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda":
        return torch.device("cuda", device.index or 0)
    return CPU if device.type == "cpu" else device


def is_gpu(device: Any) -> bool:
    return isinstance(device, torch.device | str) and torch.device(device).type == "cuda"


def claimed(tensor: torch.Tensor) -> torch.device:
    """Where a tensor says that it is."""
    with torch._C.DisableTorchFunction():
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return CPU
        if tensor.device.type == "meta":
            return META
        found: torch.device = tensor.untyped_storage().__dict__.get("claimed", CPU)
        return found


def claim(tensor: torch.Tensor, device: torch.device) -> None:
    with torch._C.DisableTorchFunction():
        if not torch._C._functorch.is_functorch_wrapped_tensor(tensor) and tensor.device.type != "meta":
            tensor.untyped_storage().__dict__["claimed"] = device


def tensors_in(*parts: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(parts) if isinstance(leaf, torch.Tensor)]


class Refusing(TorchDispatchMode):
    """Sees every operation, those of backward passes, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        given, name = tensors_in(args, kwargs), func.overloadpacket.__name__
        devices = [claimed(tensor) for tensor in given]
        together = set(devices[:1])
        if name not in COPIES and not name.startswith(GROUPED):
            together = {
                device
                for tensor, device in zip(given, devices, strict=True)
                if device != META and not (tensor.dim() == 0 and device == CPU)
            }
            if name in INDEXING:
                together = {device for device in together if device != CPU} | {devices[0]}
            if len(together) > 1:
                shapes = [f"{tuple(t.shape)} on {device}" for t, device in zip(given, devices, strict=True)]
                raise AssertionError(f"{func} of tensors on several devices: {', '.join(shapes)}")
        known = {t.untyped_storage()._cdata for t in given if claimed(t) != META}
        made = func(*args, **(kwargs or {}))
        here = next(iter(together), devices[0] if devices else CPU)
        for tensor in tensors_in(made):
            if tensor.device.type != "meta" and tensor.untyped_storage()._cdata not in known:
                claim(tensor, here)
        return made


class Moved(torch.autograd.Function):
    """A copy on another device, whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, target: torch.device) -> torch.Tensor:
        ctx.source = claimed(tensor)
        copy = tensor.detach().clone()
        claim(copy, target)
        return copy

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        copy = gradient.clone()
        claim(copy, ctx.source)
        return copy, None


class Claiming(TorchFunctionMode):
    """Sees what Python asks of torch: which device a tensor is on, and to put one somewhere."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return claimed(args[0])
        if func == torch.Tensor.is_cuda.__get__:
            return claimed(args[0]).type == "cuda"
        if func is torch.Tensor.numpy or name == "__array__":
            assert claimed(args[0]) == CPU, "numpy of a tensor on a GPU"
        if func is torch.Tensor.to or name in ("cpu", "cuda"):
            return self._put(name, args[0], list(args[1:]), options)
        if func is torch.Tensor.backward:
            with self:  # hooks ask, too
                return torch.autograd.graph._engine_run_backward(
                    (args[0],), (torch.ones_like(args[0]),), False, False, (),
                    allow_unreachable=True, accumulate_grad=True,
                )  # fmt: skip
        if name == "__deepcopy__":
            copy = func(*args, **options)
            claim(copy, claimed(args[0]))
            return copy
        if options.get("device") is None:
            made = func(*args, **options)
            if name in MAKERS:
                claim(made, CPU)
            return made
        target = named(options["device"])
        if target == META:
            return func(*args, **options)
        assert target == CPU or options.get("generator") is None, "a draw of the processor's on a GPU"
        made = func(*args, **{**options, "device": CPU})
        for tensor in tensors_in(made):
            claim(tensor, target)
        return made

    @staticmethod
    def _put(name: str, tensor: torch.Tensor, rest: list[Any], options: dict[str, Any]) -> torch.Tensor:
        """`to`, `cpu` and `cuda`: a copy where the device is another one."""
        target = {"cpu": CPU, "cuda": FIRST}.get(name)
        wanted = [*rest, options.get("device"), options.get("other")]
        for place, one in enumerate(wanted):
            if isinstance(one, torch.Tensor):
                target = claimed(one)
            elif isinstance(one, torch.device | str) or (place == 0 and type(one) is int):
                target = named(one if type(one) is not int else f"cuda:{one}")
        if META in (target, claimed(tensor)):
            at = {name: CPU if is_gpu(one) else one for name, one in options.items()}
            return tensor.to(*[CPU if is_gpu(one) else one for one in rest], **at)
        dtypes = [one for one in wanted[:-1] if isinstance(one, torch.dtype)]
        dtypes += [one.dtype for one in wanted if isinstance(one, torch.Tensor)]
        dtype = options.get("dtype") or next(iter(dtypes), tensor.dtype)
        with torch._C.DisableTorchFunction():
            if target in (None, claimed(tensor)):
                return tensor.to(dtype=dtype, copy=bool(options.get("copy")))
            moved = tensor.to(dtype=dtype)
            if torch.is_grad_enabled() and moved.requires_grad:
                put: torch.Tensor = Moved.apply(moved, target)
                return put
            copy = moved.clone() if moved is tensor else moved
            claim(copy, target)
            return copy


class CountingTimer:
    """Every call takes a microsecond more than the one before."""

    def __init__(self, *_: Any) -> None:
        self._calls = 0

    def time(self, call: Callable[[], object]) -> None:
        call()
        self._calls += 1

    def collect(self) -> list[int]:
        calls, self._calls = self._calls, 0
        return [1000 * (call + 1) for call in range(calls)]


@pytest.fixture
def fake_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """So many GPUs, for as long as a `with` block lasts."""

    @contextmanager
    def fake_gpus(count: int) -> Iterator[None]:
        draws = calibration._generator
        answers: dict[str, Any] = {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "mem_get_info": lambda device: (2**40, 2**40),
            "is_bf16_supported": lambda including_emulation=False: True,
            "get_device_name": lambda device: "fake",
            "get_device_capability": lambda *device: (9, 0),
            "synchronize": lambda *device: None,
        }
        with monkeypatch.context() as patch:
            for name, answer in answers.items():
                patch.setattr(torch.cuda, name, answer)
            patch.setattr(calibration, "_generator", lambda seed, batch, _: draws(seed, batch, CPU))
            try:
                with Refusing(), Claiming():
                    yield
            finally:
                torch.use_deterministic_algorithms(False)

    return fake_gpus


def gemma() -> PreTrainedModel:
    """Two kinds of attention, and norms behind it, too."""
    torch.manual_seed(0)
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=64, sliding_window=8, pad_token_id=None,
            layer_types=["sliding_attention", "full_attention"] * 2,
        )
    )  # fmt: skip


def gpt2() -> PreTrainedModel:
    """Matrices stored D×O, positions of its own, a tied head."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=24, n_layer=4, n_head=2, n_positions=64, vocab_size=48, initializer_range=0.3,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "kind", "gpus", "dtype"),
    [
        ("llama", "choice", 2, "float32"),
        ("gpt2", "generate", 1, "bfloat16"),
        pytest.param("gemma", "lm", 1, "bfloat16", marks=pytest.mark.campaign),
        pytest.param("llama", "choice", 1, "float16", marks=pytest.mark.campaign),
    ],
)
@pytest.mark.usefixtures("_own_modules_cache")
def test_every_tensor_of_a_job_is_where_it_belongs(
    family: str,
    kind: str,
    gpus: int,
    dtype: Any,
    make_llama: Any,
    tokenizer: Any,
    make_task: Any,
    preparation_plan: Any,
    provenance: Any,
    fake_gpus: Any,
    tmp_path: Path,
) -> None:
    llama = partial(make_llama, num_hidden_layers=4, initializer_range=0.3)
    make, task = {"llama": llama, "gpt2": gpt2, "gemma": gemma}[family], make_task(kind)
    plan = on_gpus(preparation_plan, make(), tokenizer, tmp_path, dtype)
    plan = replace(plan, task=task, midway_share=0.4)
    timed, alone = Workload(kind="prefill", rows=2, length=6), {"threads": 1, "device": "cuda"}
    with fake_gpus(gpus):
        *_, prepared = closed_form(plan)
        scorer = build_scorer(
            ScorerPlan(
                model_folder=prepared.model.folder,
                factors_folder=prepared.factors,
                matrices=prepared.matrices,
                batch_tokens=BATCH_TOKENS,
                **alone,
            ),
            task,
        )
        _, beliefs = scorer.score_dense(part(prepared, lambda _: DENSE))
        scorer.set_beliefs({"search": beliefs})
        request = part(prepared, lambda index: (DENSE, 0)[index % 2] if index < 2 else RANKS[index % 5])
        assert isinstance(scorer.score(request), Scores)
        *_, exported = export(
            ExportPlan(
                model_folder=prepared.model.folder,
                factors_folder=prepared.factors,
                matrices=prepared.matrices,
                ranks=request.ranks,
                folder=tmp_path / "export",
                scratch=tmp_path / "scratch",
                provenance=provenance,
            )
        )
        check = VerificationPlan(
            exported=exported.folder, dense=prepared.model.folder, split="test", examples=10,
            batch_tokens=BATCH_TOKENS, timed=(timed, 1), **alone,
        )  # fmt: skip
        *_, verified = verify(check, task, make_timer=CountingTimer)
        assert verified.spent is not None


@pytest.mark.parametrize("gpus", [1, 2])
def test_factors_are_trained_where_they_lie(
    gpus: int,
    make_llama: Any,
    tokenizer: Any,
    make_task: Any,
    preparation_plan: Any,
    fake_gpus: Any,
    tmp_path: Path,
) -> None:
    plan = on_gpus(preparation_plan, make_llama(num_hidden_layers=4), tokenizer, tmp_path, "float32")
    plan = replace(plan, task=make_task("choice"), training=Training(epochs=1, rank_step=4))
    with fake_gpus(gpus):
        *_, prepared = prepare(plan)
    assert prepared.factors.name.startswith("trained")


def on_gpus(plan: Any, model: PreTrainedModel, tokenizer: Any, root: Path, dtype: Any) -> Any:
    """A plan to prepare a model that is saved for it, in a cache of its own."""
    folder = root / "dense"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    source = ModelSource(kind="path", location=str(folder), dtype=dtype)
    return replace(plan, model=source, device="cuda", cache_dir=root / "cache", batch_tokens=BATCH_TOKENS)


def part(prepared: Any, rank: Callable[[int], int]) -> ScoreRequest:
    """Of the search split, at some rank of each matrix."""
    ranks = tuple(rank(index) for index in range(len(prepared.matrices)))
    return ScoreRequest(ranks=ranks, split="search", start=0, stop=16)


def test_fakes_refuse_what_a_gpu_would(fake_gpus: Any) -> None:
    with fake_gpus(2):
        here, there = torch.ones(3), torch.ones(3, device="cuda:1")
        assert (there.device, there.is_cuda) == (torch.device("cuda", 1), True)
        with pytest.raises(AssertionError, match="on several devices"):
            here + there
        with pytest.raises(AssertionError, match="on several devices"):
            there @ torch.ones(3, device="cuda:0")
        with pytest.raises(AssertionError, match="numpy"):
            there.numpy()
        with pytest.raises(AssertionError, match="draw"):
            torch.rand(3, generator=torch.Generator(), device="cuda")
        assert (there + 1.0 + torch.tensor(2.0)).sum().item() == 12
        assert there[torch.tensor([0, 2])].cpu().numpy().tolist() == [1, 1]
        weight = torch.ones(3, device="cuda:1", requires_grad=True)
        (weight.to("cuda:0") * torch.ones(3, device="cuda:0")).sum().backward()
        assert weight.grad is not None
        assert weight.grad.device == torch.device("cuda", 1)
