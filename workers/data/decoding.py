"""Bound on the texts that a tokenizer makes of tokens.

A model's answers are decoded where it runs, outside the limits of a check. So a check refuses tokenizers whose decoders
lengthen texts, or whose tokens are long.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ranksieve.search.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_TOKEN = 1000
"""Most characters of a token; known vocabularies have a few hundred, of blanks."""


def check_decoding(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a tokenizer that may make a long text of few tokens.

    Raises:
        InputError: Names the decoder, or the length of the token.
    """
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    if longest > LONGEST_TOKEN:
        raise InputError(
            "model",
            f"its tokenizer must have tokens of at most {LONGEST_TOKEN:,} characters; got one of {longest:,}",
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)  # of fast tokenizers
    decoder = None if backend is None else backend.decoder
    steps = () if decoder is None else _steps(json.loads(decoder.__getstate__()))
    growing = next(filter(_lengthens, steps), None)
    if growing is not None:
        raise InputError(
            "model",
            f"its tokenizer has a decoder that lengthens texts, {json.dumps(growing)[:200]}; expected replacements no "
            "longer than what they replace",
        )


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
    for inner in decoder.get("decoders", ()):
        yield from _steps(inner)


def _lengthens(step: dict[str, Any]) -> bool:
    match step:
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            pass
        case {"type": "Replace", "content": new}:  # a regular expression, which may match nothing
            old = ""
        case {"type": "BPEDecoder", "suffix": old} | {"type": "CTC", "word_delimiter_token": old}:
            new = " "
        case _:
            return False
    return len(new.encode()) > len(old.encode())
