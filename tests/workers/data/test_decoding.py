"""Which tokenizers make no more text of tokens than a job can hold."""

import pytest
from tokenizers import Regex, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from ranksieve.search.errors import InputError
from ranksieve.workers.data.decoding import LONGEST_TOKEN, check_decoding


def tokenizer(decoder: decoders.Decoder | None, token: str = "good") -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, token: 1}, unk_token="<unk>"))
    if decoder is not None:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.ByteLevel(),
        decoders.Metaspace(),
        decoders.WordPiece(),
        decoders.BPEDecoder(),
        decoders.CTC(),
        decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    ],
)
def test_usual_decoders_are_taken(decoder: decoders.Decoder | None) -> None:
    check_decoding(tokenizer(decoder, token="g" * LONGEST_TOKEN))


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Replace("o", "oo"),
        decoders.Replace("", "o"),
        decoders.Replace(Regex("o*"), "o"),
        decoders.BPEDecoder(suffix=""),
        decoders.CTC(word_delimiter_token=""),
    ],
)
def test_a_decoder_that_lengthens_texts_is_refused(decoder: decoders.Decoder) -> None:
    nested = decoders.Sequence([decoders.Fuse(), decoders.Sequence([decoder] * 6)])
    for hostile in (decoder, nested):
        with pytest.raises(InputError, match="model: its tokenizer has a decoder that lengthens texts"):
            check_decoding(tokenizer(hostile))


def test_a_long_token_is_refused() -> None:
    with pytest.raises(InputError, match="at most 1,000 characters; got one of 1,001"):
        check_decoding(tokenizer(None, token="g" * (LONGEST_TOKEN + 1)))
