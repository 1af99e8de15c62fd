"""Records of `dates.yaml`: find the date in a text and write it as an ISO date.

A sentence with a date and a price stands before or after a short movie review. Both come in many written forms, so that
no single word tells the answer. The same reviews and seed give the same records.
"""

import datetime
import random
from collections.abc import Iterable, Iterator

LONGEST_REVIEW = 14
"""Most words of a review that is taken."""

FIRST_DAY, DAYS = datetime.date(1970, 1, 1), 20_000

DATES = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{short} {day}, {year}",
    "the {nth} of {month} {year}",
    "{day:02}.{number:02}.{year}",
    "{month} {nth}, {year}",
    "{day} {short} {year}",
    "{year}, {month} {day}",
)
PRICES = (
    "${whole}.{cents:02}",
    "{whole} dollars",
    "EUR {whole}.{cents:02}",
    "{whole} pounds and {cents} pence",
    "USD {whole}",
    "{whole},{cents:02} euros",
)
SENTENCES = (
    "I saw it on {date} and paid {price}.",
    "{price} is what I paid on {date}.",
    "Ticket: {price}, {date}.",
    "It opened on {date}; the disc costs {price} now.",
    "For {price} I rented it on {date}.",
    "Written {date} by someone who wants {price} back.",
)


def ordinal(day: int) -> str:
    """Return 1st, 2nd, and so on."""
    ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def sentence(rng: random.Random, date: datetime.date) -> str:
    """Return a sentence with the date and a price, each in a form of its own."""
    price = rng.choice(PRICES).format(whole=rng.randint(2, 60), cents=rng.randint(1, 99))
    written = rng.choice(DATES).format(
        day=date.day,
        nth=ordinal(date.day),
        number=date.month,
        month=date.strftime("%B"),
        short=date.strftime("%b"),
        year=date.year,
    )
    return rng.choice(SENTENCES).format(date=written, price=price)


def dated(reviews: Iterable[str], seed: int) -> Iterator[dict[str, str]]:
    """Yield a record for every short review."""
    rng = random.Random(seed)
    for review in reviews:
        if len(review.split()) > LONGEST_REVIEW:
            continue
        date = FIRST_DAY + datetime.timedelta(days=rng.randrange(DAYS))
        parts = [review, sentence(rng, date)]
        rng.shuffle(parts)
        yield {"text": " ".join(parts), "date": date.isoformat()}
