import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ranksieve.search.errors import InputError
from ranksieve.workers.data.encoding import encode
from ranksieve.workers.types.plan import DataPlan, EncodedTask, RecordSource, Row, Span, TaskPlan

WORDS = [
    "good",
    "bad",
    "very",
    "film",
    "Review",
    ":",
    "Mood",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
]
TEMPLATE = (
    "{% for m in messages %}<user>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)
CHATTING = (
    "{% set starts = {'system': 'Review ', 'user': '<user>', 'assistant': '<model>'} %}"
    "{% for m in messages %}{{ starts[m.role] if m.role in starts else raise_exception('no role ' + m.role) }}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)


def words(*, bos: bool = False, eos: bool = False, template: str | None = None) -> PreTrainedTokenizerFast:
    """One token per word: ids are readable by hand. Digits are single tokens."""
    specials = ["<unk>", "<s>", "</s>", "<user>", "<model>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)]
    )
    backend.add_special_tokens(specials)
    if bos or eos:
        single = ("<s> " if bos else "") + "$A" + (" </s>" if eos else "")
        backend.post_processor = processors.TemplateProcessing(
            single, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        chat_template=template,
    )


def byte_pairs() -> PreTrainedTokenizerFast:
    """Byte-level pairs, as in GPT-2."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return trained(backend)


def pieces() -> PreTrainedTokenizerFast:
    """Pieces as in Llama 2: a space is put before every text, also before one that has its own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = trained(backend)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.backend_tokenizer.pre_tokenizer = None
    return tokenizer


def trained(backend: Tokenizer) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=["</s>"])
    backend.train_from_iterator(["Review: film 0 Mood: good", "Review: film 0 Mood: bad"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.convert_tokens_to_ids(text.split()))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": str(i), "text": f"film {i}", "label": "good" if i % 2 else "bad"} for i in range(count)]


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    def make(records: Sequence[dict[str, Any]], **sizes: int) -> DataPlan:
        path = tmp_path / "films.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return DataPlan(
            source=RecordSource(field="task.data.source", path=path), sizes=sizes or {"test": len(records)}
        )

    return make


CHOICE = TaskPlan(
    kind="choice",
    prompt="Review: {{ text }} Mood:",
    answer="{{ label }}",
    choices={"good": "good", "bad": "bad"},
)
GENERATE = TaskPlan(
    kind="generate", prompt="Review: {{ text }} Mood:", answer="{{ label }}", max_new_tokens=4
)
LM = TaskPlan(kind="lm", prompt="", answer="{{ text }}")
CHAT = replace(
    GENERATE, prompt="{{ messages[:-1] }}", answer="{{ messages[-1].content }}", chat_template=True
)


def chats(*conversations: str) -> list[dict[str, Any]]:
    """Records of a system's message and turns of the user and the assistant, which slashes divide."""
    return [
        {
            "id": number,
            "messages": [
                {"role": "system", "content": "very"},
                *(
                    {"role": ("user", "assistant")[turn % 2], "content": content}
                    for turn, content in enumerate(said.split("/"))
                ),
            ],
        }
        for number, said in enumerate(conversations)
    ]


def test_answers_of_which_none_can_be_written_are_refused(
    plan: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Both models would be cut off alike, and hardly any drop be seen."""
    answer = replace(GENERATE, answer="{{ text }} 1 2 3 4", max_new_tokens=4)
    assert fails(answer, plan(rows(2)), tokenizer).field == "task.max_new_tokens"
    lines = replace(GENERATE, answer="{{ label }}\n{{ label }}", max_new_tokens=9)
    assert "up to its first line break" in fails(lines, plan(rows(2)), tokenizer).message
    some = encode(replace(GENERATE, answer="{{ text }}", max_new_tokens=4), plan(rows(2)), tokenizer, None)
    assert some.splits["test"][0].end == tokenizer.eos_token_id


def test_writing_goes_on_behind_line_breaks_where_calibration_answers_have_some(
    plan: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    several = [{"text": f"film {i}", "label": "\ngood\nbad" if i % 2 else "bad\n"} for i in range(40)]
    data = plan(several, calibration=10, test=8)
    encoded = encode(GENERATE, data, tokenizer, None)
    assert encoded.several_lines
    assert all(map(encoded.can_be_written, encoded.splits["test"]))
    lists = replace(GENERATE, answer="{{ ['bad', label] }}")
    assert encode(lists, data, tokenizer, None).several_lines
    assert not encode(replace(GENERATE, kind="lm"), data, tokenizer, None).several_lines
    error = fails(replace(GENERATE, answer="{{ text }} {{ label }}", max_new_tokens=1), data, tokenizer)
    assert "must allow the whole answer of some record; with 1 no answer fits" in error.message

    single = [{**record, "label": record["label"].replace("\nb", " b")} for record in several]
    first_line = encode(GENERATE, plan(single, calibration=10, test=8), tokenizer, None)
    assert not first_line.several_lines
    assert first_line.split_digests.keys() == encoded.split_digests.keys()
    assert first_line.split_digests["test"] != encoded.split_digests["test"]


def test_fields_are_compared_where_all_calibration_answers_are_objects(
    plan: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = replace(GENERATE, answer="{{ {'mood': label} | tojson }}", max_new_tokens=12)
    encoded = encode(task, plan(rows(20), calibration=10, test=8), tokenizer, None)
    assert (encoded.objects, encoded.metric_name) == (True, "field_f1")
    lists = replace(task, answer="{{ [{'mood': label} | tojson, 'none'] }}")
    words = encode(lists, plan(rows(20), calibration=10, test=8), tokenizer, None)
    assert (words.objects, words.metric_name) == (False, "token_f1")
    assert words.split_digests["test"] != encoded.split_digests["test"]
    assert encode(task, plan(rows(8)), tokenizer, None).metric_name == "token_f1"


def only(encoded: EncodedTask) -> Any:
    (example,) = encoded.splits["test"]
    return example


def fails(
    task: TaskPlan, data: DataPlan, tokenizer: PreTrainedTokenizerFast, context: int | None = None
) -> InputError:
    with pytest.raises(InputError) as caught:
        encode(task, data, tokenizer, context)
    return caught.value


def test_one_token_choices_share_a_row(plan: Any) -> None:
    tokenizer = words()
    example = only(encode(CHOICE, plan(rows(1)), tokenizer, None))
    prompt = ids(tokenizer, "Review : film 0 Mood :")
    assert example.rows == (
        Row(
            ids=prompt,
            spans=(
                Span(choice=0, start=5, ids=ids(tokenizer, "good")),
                Span(choice=1, start=5, ids=ids(tokenizer, "bad")),
            ),
        ),
    )
    assert (example.choices, example.label, example.prompt_ids, example.references) == (2, 1, prompt, ())


def test_longer_choices_share_rows_of_equal_input(plan: Any) -> None:
    tokenizer = words()
    task = replace(
        CHOICE, choices={"good": "good", "bad": "very bad", "worst": "very very bad", "best": "very good"}
    )
    example = only(encode(task, plan(rows(1)), tokenizer, None))
    prompt, very = ids(tokenizer, "Review : film 0 Mood :"), ids(tokenizer, "very")
    assert [row.ids for row in example.rows] == [prompt, prompt + very, prompt + very + very]
    assert [[(s.choice, s.start, s.ids) for s in row.spans] for row in example.rows] == [
        [(0, 5, ids(tokenizer, "good"))],
        [(1, 5, ids(tokenizer, "very bad")), (3, 5, ids(tokenizer, "very good"))],
        [(2, 5, ids(tokenizer, "very very bad"))],
    ]
    assert example.label == 1


def test_own_options_may_differ_in_number(plan: Any) -> None:
    records = [
        {"text": "film 1", "opts": ["good", "bad"], "a": 1},
        {"text": "film 2", "opts": list("123"), "a": 2},
    ]
    task = replace(CHOICE, choices=None, choices_field="opts", answer="{{ a }}")
    examples = encode(task, plan(records), words(), None).splits["test"]
    assert sorted((e.choices, e.label) for e in examples) == [(2, 1), (3, 2)]


def test_same_prompt_with_other_options_is_no_duplicate(plan: Any) -> None:
    records = [
        {"text": "film", "opts": opts, "a": 0} for opts in (["good", "bad"], ["1", "2"], ["bad", "good"])
    ]
    task = replace(CHOICE, choices=None, choices_field="opts", answer="{{ a }}")
    encoded = encode(task, plan(records, test=2), words(), None)
    assert encoded.dropped_duplicates == 1


@pytest.mark.parametrize("eos", [False, True])
def test_beginning_token_is_kept_and_end_token_left_out(plan: Any, eos: bool) -> None:
    tokenizer = words(bos=True, eos=eos)
    example = only(encode(CHOICE, plan(rows(1)), tokenizer, None))
    assert example.prompt_ids == ids(tokenizer, "<s> Review : film 0 Mood :")
    assert example.rows[0].spans[0].ids == ids(tokenizer, "good")


class Rewriting(PreTrainedTokenizerFast):
    """Reads a text differently when it adds special tokens."""

    def __call__(self, text: Any, *, add_special_tokens: bool = True, **options: Any) -> Any:
        return super().__call__("good" if add_special_tokens else text, add_special_tokens=False, **options)


def test_tokenizer_that_rewrites_text_is_refused(plan: Any) -> None:
    tokenizer = Rewriting(tokenizer_object=words().backend_tokenizer, unk_token="<unk>")
    error = fails(CHOICE, plan(rows(1)), tokenizer)
    assert error.field == "model"
    assert "reads ':' as" in error.message


def test_byte_pairs_take_the_delimiter_into_the_answer(plan: Any) -> None:
    tokenizer = byte_pairs()
    example = only(encode(CHOICE, plan(rows(1)), tokenizer, None))
    assert tokenizer.decode(example.prompt_ids) == "Review: film 0 Mood:"
    assert [tokenizer.decode(span.ids) for span in example.rows[0].spans] == [" good", " bad"]
    assert len(example.rows) == 1


def test_pieces_read_answers_as_in_mid_text(plan: Any) -> None:
    # Alone, " good" would get a second space in front, which is never there after a prompt.
    tokenizer = pieces()
    example = only(encode(CHOICE, plan(rows(1)), tokenizer, None))
    whole = tuple(tokenizer("Review: film 0 Mood: good")["input_ids"])
    good = example.rows[0].spans[0]
    assert example.prompt_ids + good.ids == whole
    assert good.ids != tuple(tokenizer(" good")["input_ids"])


def test_generate_takes_no_tokenizer_whose_texts_grow(plan: Any) -> None:
    tokenizer = words()
    tokenizer.backend_tokenizer.decoder = decoders.Replace("d", "dd")
    with pytest.raises(InputError, match="a decoder that lengthens texts"):
        encode(GENERATE, plan(rows(1)), tokenizer, None)


def test_generate_learns_the_answer_and_to_stop(plan: Any) -> None:
    tokenizer = words()
    example = only(encode(GENERATE, plan(rows(1)), tokenizer, None))
    prompt = ids(tokenizer, "Review : film 0 Mood :")
    span = Span(choice=0, start=5, ids=ids(tokenizer, "bad </s>"))
    assert example.rows == (Row(ids=prompt + ids(tokenizer, "bad"), spans=(span,)),)
    assert (example.references, example.prompt_ids) == (("bad",), prompt)


def test_a_list_of_answers_gives_several_references(plan: Any) -> None:
    answers = {"text": ["good", "very good"]}
    task, records = replace(GENERATE, answer="{{ answers.text }}"), [{"text": "film 0", "answers": answers}]
    example = only(encode(task, plan(records), words(), None))
    assert example.references == ("good", "very good")
    assert example.rows == only(encode(replace(task, answer="good"), plan(records), words(), None)).rows

    error = fails(task, plan([{"text": "film 0", "answers": {"text": []}}]), words())
    assert (error.field, error.message) == (
        "task.answer", "record 1 of films.jsonl has an empty list of answers; leave the record out"
    )  # fmt: skip


@pytest.mark.parametrize("bos", [False, True])
def test_lm_predicts_every_token_it_can(plan: Any, bos: bool) -> None:
    tokenizer = words(bos=bos)
    example = only(encode(LM, plan([{"text": "very good film"}]), tokenizer, None))
    first, target = ("<s>", "very good film") if bos else ("very", "good film")
    read = ids(tokenizer, f"{first} {target}")[:-1]
    assert example.rows == (Row(ids=read, spans=(Span(choice=0, start=0, ids=ids(tokenizer, target)),)),)


def test_lm_after_a_prompt(plan: Any) -> None:
    tokenizer = words()
    task = replace(LM, prompt="Review:")
    example = only(encode(task, plan([{"text": "good film"}]), tokenizer, None))
    span = Span(choice=0, start=1, ids=ids(tokenizer, "good film"))
    assert example.rows == (Row(ids=ids(tokenizer, "Review : good"), spans=(span,)),)


def test_chat_template_wraps_the_prompt(plan: Any) -> None:
    tokenizer = words(bos=True, template=TEMPLATE)
    example = only(encode(replace(CHOICE, chat_template=True), plan(rows(1)), tokenizer, None))
    assert example.prompt_ids == ids(tokenizer, "<user> Review : film 0 Mood : <model>")


def test_messages_are_the_conversation_that_the_chat_template_takes(plan: Any) -> None:
    tokenizer = words(template=CHATTING)
    records = chats("film 0/bad/film 1/good", "film 0/bad/film 1/very good", "film 0/bad/film 2/good")
    encoded = encode(CHAT, plan(records, test=2), tokenizer, None)
    prompts = {example.prompt_ids for example in encoded.splits["test"]}
    start = "Review very <user> film 0 <model> bad <user> film"
    assert prompts == {ids(tokenizer, f"{start} {number} <model>") for number in (1, 2)}
    assert encoded.dropped_duplicates == 1, "the answer makes no other prompt"
    assert {example.references[0] for example in encoded.splits["test"]} < {"good", "very good"}

    choice = replace(CHAT, kind="choice", choices={"good": "good", "bad": "bad"})
    assert only(encode(choice, plan(records[2:]), tokenizer, None)).label == 0
    text = only(encode(replace(CHAT, kind="lm"), plan(records[2:]), tokenizer, None))
    assert text.rows[0].spans[0].ids == ids(tokenizer, "good")


def test_conversations_of_a_group_never_straddle_splits(plan: Any) -> None:
    records = [{**record, "film": n // 4} for n, record in enumerate(chats(*(f"{n}/1" for n in range(40))))]
    data = replace(plan(records, search=8, test=10), group="film")
    encoded = encode(CHAT, data, words(template=CHATTING), None)
    assert {name: len(part) for name, part in encoded.splits.items()} == data.sizes


@pytest.mark.parametrize(
    ("task", "field", "message"),
    [
        (
            replace(CHAT, prompt="{{ messages }}"),
            "task.prompt",
            "record 1 of films.jsonl ends with a message of the assistant",
        ),
        (
            replace(CHAT, prompt="{{ messages[:0] }}"),
            "task.prompt",
            "record 1 of films.jsonl has no messages",
        ),
        (
            replace(CHAT, prompt="{{ turns[:-1] }}"),
            "task.prompt",
            "has no field 'turns'; it has id, messages",
        ),
        (replace(CHAT, chat_template=False), "task.prompt", "has a list as its prompt; join it to a text"),
        (
            replace(CHAT, prompt="{{ [{'role': 'judge', 'content': 'good'}] }}"),
            "task.chat_template",
            "chat template fails at record 1 of films.jsonl: no role judge",
        ),
        (
            replace(CHAT, prompt="{{ [messages[0], messages[0].text] }}"),
            "task.prompt",
            "record 1 of films.jsonl does not render: 'dict object' has no attribute 'text'",
        ),
        (replace(CHAT, prompt="{{ [b] * 3 }}"), "task.prompt", "record 1 of films.jsonl has no field 'b'"),
    ],
)
def test_a_bad_conversation_names_field_and_record(
    plan: Any, task: TaskPlan, field: str, message: str
) -> None:
    error = fails(task, plan(chats("film 0/bad")), words(template=CHATTING))
    assert error.field == field
    assert message in error.message


def test_chat_template_that_tells_the_day_gives_the_same_prompts_every_day(plan: Any) -> None:
    tokenizer = words(template="{{ strftime_now('good film %d') }}" + TEMPLATE)
    example = only(encode(replace(CHOICE, chat_template=True), plan(rows(1)), tokenizer, None))
    assert example.prompt_ids[:4] == ids(tokenizer, "good film 0 1")
    tokenizer = words(template="{{ strftime_now(format) }}" + TEMPLATE)
    error = fails(replace(CHOICE, chat_template=True), plan(rows(1)), tokenizer)
    assert (error.field, "would change overnight" in error.message) == ("task.chat_template", True)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (
            "{% for m in messages %}<user>{{ m.content }}<model>{% endfor %}",
            "<model>",
        ),  # as of Gemma, Phi, Qwen
        ("{% for m in messages %}{{ m.content }} good </s>{% endfor %}", "</s>"),
        ("{% for m in messages %}<user>{{ m.content }}{% endfor %}", "</s>"),
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('none') }}{% endif %}"
            "<user>{{ m.content }}{% endfor %}",
            "</s>",
        ),
    ],
)
def test_an_answer_in_a_chat_ends_as_the_template_ends_it(plan: Any, template: str, end: str) -> None:
    tokenizer = words(template=template)
    example = only(encode(replace(GENERATE, chat_template=True), plan(rows(1)), tokenizer, None))
    assert example.rows[0].spans[0].ids[-1:] == ids(tokenizer, end)
    plain = only(encode(GENERATE, plan(rows(1)), tokenizer, None))
    assert plain.rows[0].spans[0].ids[-1:] == ids(tokenizer, "</s>")


def test_chat_template_absent_or_failing(plan: Any) -> None:
    task = replace(CHOICE, chat_template=True)
    error = fails(task, plan(rows(1)), words())
    assert (error.field, "has no chat template" in error.message) == ("task.chat_template", True)
    failing = words(template="{{ raise_exception('no user turns') }}")
    error = fails(task, plan(rows(1)), failing)
    assert (error.field, "no user turns" in error.message) == ("task.chat_template", True)
    endless = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    several: Any = {"tool_use": TEMPLATE, "rag": TEMPLATE}
    no_text: tuple[Any, ...] = (5, True, {"default": 5}, {"default": None}, several)
    short, none = "{{ messages[0].content|truncate(1) }}", "{{ cycler() }}"
    for broken in (
        "{{ 1 / 0 }}", "{{ 2.0 ** 100000 }}", "{{ messages[7].content.x }}", endless, short, none, *no_text,
    ):  # fmt: skip
        error = fails(task, plan(rows(1)), words(template=broken))
        assert (error.field, "chat template fails" in error.message) == ("task.chat_template", True)


@pytest.mark.parametrize(
    ("task", "context", "field", "message"),
    [
        (
            CHOICE,
            5,
            "task.prompt",
            "record 1 of films.jsonl has too long a prompt with its longest choice: 6 tokens",
        ),
        (
            GENERATE,
            9,
            "task.prompt",
            "a prompt of 6 tokens with max_new_tokens 4: 10 tokens, more than the model's",
        ),
        (replace(GENERATE, answer="{{ text }} 1 2 3 4"), 10, "task.answer", "too long an answer: 12 tokens"),
        (replace(LM, answer="very very good {{ text }}"), 3, "task.answer", "too long a text: 4 tokens"),
    ],
)
def test_context_is_not_exceeded(plan: Any, task: TaskPlan, context: int, field: str, message: str) -> None:
    error = fails(task, plan(rows(1)), words(), context)
    assert error.field == field
    assert message in error.message
    assert f"context of {context}" in error.message


@pytest.mark.parametrize(("task", "context"), [(CHOICE, 6), (GENERATE, 10), (LM, 1)])
def test_context_may_be_filled(plan: Any, task: TaskPlan, context: int) -> None:
    assert encode(task, plan(rows(1)), words(), context).splits["test"]


@pytest.mark.parametrize(
    ("task", "field", "message"),
    [
        (replace(CHOICE, prompt="{{ body }}"), "task.prompt", "record 1 of films.jsonl has no field 'body'"),
        (replace(CHOICE, answer="{{ mood }}"), "task.answer", "record 1 of films.jsonl has no field 'mood'"),
        (replace(CHOICE, prompt="{{ text"), "task.prompt", "bad template, line 1"),
        (replace(CHOICE, answer="{% x %}"), "task.answer", "bad template, line 1"),
        (replace(CHOICE, answer="so-so"), "task.answer", "has the label 'so-so', which is not one of"),
        (replace(CHOICE, prompt=" "), "task.prompt", "record 1 of films.jsonl has the prompt ' ': no tokens"),
        (replace(CHOICE, choices={"good": "good", "bad": ""}), "task.choices", "choice '' of record 1"),
        (replace(CHOICE, choices={"good": "yes", "bad": "no"}), "task.choices", "are the same tokens"),
        (replace(CHOICE, choices=None, choices_field="opts"), "task.choices", "has no field 'opts'"),
        (replace(CHOICE, choices=None, choices_field="text"), "task.choices", "must be a list"),
        (
            replace(GENERATE, answer=" "),
            "task.answer",
            "record 1 of films.jsonl has the answer ' ': no tokens",
        ),
        (replace(LM, answer="film"), "task.answer", "has the text 'film': 1 tokens, none to predict"),
    ],
)
def test_bad_task_names_field_and_record(plan: Any, task: TaskPlan, field: str, message: str) -> None:
    error = fails(task, plan(rows(1)), words())
    assert error.field == field
    assert message in error.message


def test_too_few_records(plan: Any) -> None:
    assert fails(CHOICE, plan(rows(9), search=8, test=8), words()).field == "task.data.sizes.search"


def test_splits_from_files_and_source(plan: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("text,label\n" + "".join(f"film {i},good\n" for i in range(10, 30)))
    data = plan(rows(20), calibration=3, search=4, confirm=5, test=12)
    data = replace(data, files={"test": RecordSource(field="task.data.files.test", path=own)})
    encoded = encode(CHOICE, data, words(), None)
    assert {name: len(part) for name, part in encoded.splits.items()} == data.sizes
    prompts = [example.prompt_ids for part in encoded.splits.values() for example in part]
    assert len(prompts) == len(set(prompts)) == 24


def test_records_of_a_group_never_straddle_splits(plan: Any) -> None:
    records = [{**row, "film": i // 4} for i, row in enumerate(rows(40))]
    data = replace(plan(records, search=8, test=10), group="film")
    encoded = encode(replace(CHOICE, prompt="{{ film }} : {{ text }}"), data, words(), None)
    films = {name: {example.prompt_ids[0] for example in part} for name, part in encoded.splits.items()}
    assert (len(films["search"]), len(films["test"])) == (2, 3)
    assert not films["search"] & films["test"]


@pytest.mark.parametrize("record", [{"text": "film 9", "label": "bad"}, {**rows(1)[0], "film": None}])
def test_a_record_without_a_group(plan: Any, record: dict[str, Any]) -> None:
    data = replace(plan([*({**row, "film": 1} for row in rows(9)), record]), group="film")
    error = fails(CHOICE, data, words())
    assert error.field == "task.data.group"
    assert "record 10 of films.jsonl has no value of 'film'; it has" in error.message


def test_unused_source_is_not_read(plan: Any, tmp_path: Path) -> None:
    data = plan(rows(2))
    gone = RecordSource(field="task.data.files.search", path=tmp_path / "gone.jsonl")
    assert encode(CHOICE, replace(data, files={"search": gone}), words(), None).splits["test"]
    own = {"test": RecordSource(field="task.data.files.test", path=data.source.path)}
    assert encode(CHOICE, replace(data, files=own, source=gone), words(), None).splits["test"]


def test_digest_identifies_content_not_order(plan: Any) -> None:
    records = rows(30)
    sizes = {"calibration": 4, "search": 8, "confirm": 8, "test": 10}
    first = encode(CHOICE, plan(records, **sizes), words(), None)
    again = encode(CHOICE, plan(random.Random(0).sample(records, 30), **sizes), words(), 512)
    assert first == again
    assert len(first.digest) == 64

    longer = encode(CHOICE, plan(records, **sizes | {"calibration": 3}), words(), None)
    assert longer.digest != first.digest
    assert longer.split_digests["test"] == first.split_digests["test"]
    assert longer.split_digests["calibration"] != first.split_digests["calibration"]

    for other in (
        replace(CHOICE, answer="{{ 'good' if label == 'bad' else 'bad' }}"),
        replace(CHOICE, delimiter=" very "),
        GENERATE,
    ):
        assert (
            encode(other, plan(records, **sizes), words(), None).split_digests["test"]
            != first.split_digests["test"]
        )
