"""Make the data files of the example jobs: 1,000 made-up records for each, in `data/` beside this script.

They show the form of the records, and let every job run. What a model learns from them is of no use.
"""

import csv
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as arrow
from pyarrow import parquet

RECORDS = 1000
PASSAGES = 600
SPLITS = {"calibration": 0.5, "search": 0.1, "confirm": 0.2, "test": 0.2}
"""Shares of the records of the multiple choice job, which has a file for each split."""

Record = dict[str, Any]

MOODS = {
    "positive": [
        "a joy from start to finish",
        "warm and funny",
        "beautifully filmed",
        "better than its book",
    ],
    "negative": ["a waste of an evening", "slow and empty", "badly lit", "worse than its trailer"],
}
WORKS = ["comedy", "thriller", "western", "cartoon", "drama", "remake", "series", "documentary"]
TICKETS = {
    "repair": ["does not start", "makes a loud noise", "loses oil", "stops after a minute"],
    "sales": ["is what I would like to buy", "needs a quote", "should be delivered", "is it in stock"],
    "billing": ["was charged twice", "has a wrong invoice", "was not refunded", "is paid already"],
}
GOODS = ["pump", "lamp", "saw", "drill", "engine", "heater", "mower", "fan", "scale", "press"]
SPAM = ["Your parcel waits", "You have won", "Confirm your account", "Your prize expires"]
MAIL = ["The minutes are attached", "Lunch is moved", "The train is late", "The report is ready"]
NAMES = ["Ada", "Ben", "Chiara", "Dilan", "Emre", "Farah", "Goran", "Hana", "Ines", "Jonas"]
FRUITS = ["apples", "pears", "plums", "figs", "lemons", "melons", "grapes", "limes"]
SMALL, LARGE = ["ant", "bee", "coin", "key"], ["ship", "whale", "tower", "bridge"]
PLACES = ["bridge", "station", "mill", "harbour", "library", "theatre", "school", "market hall"]
RIVERS = ["Aller", "Bode", "Clyde", "Dart", "Ebro", "Fulda", "Garonne", "Havel"]


def review(rng: Random) -> Record:
    """Return a review and its mood."""
    label = rng.choice(list(MOODS))
    first, second = rng.sample(MOODS[label], 2)
    text = f"A {rng.choice(WORKS)} of {rng.randint(60, 200)} minutes: {first}, and {second}."
    return {"text": text, "label": label}


def ticket(rng: Random) -> Record:
    """Return a customer's message and the department that it is for."""
    label = rng.choice(list(TICKETS))
    text = f"The {rng.choice(GOODS)} of order {rng.randint(1000, 9999)} {rng.choice(TICKETS[label])}."
    return {"text": text, "label": label}


def message(rng: Random) -> Record:
    """Return an e-mail's subject, and whether it is spam."""
    label, starts = rng.choice([("spam", SPAM), ("mail", MAIL)])
    return {"text": f"{rng.choice(starts)}, {rng.choice(NAMES)} ({rng.randint(100, 999)})", "label": label}


def order(rng: Random) -> Record:
    """Return a sentence and the fields to extract from it."""
    fields = {"buyer": rng.choice(NAMES), "item": rng.choice(GOODS), "count": rng.randint(2, 99)}
    text = f"On day {rng.randint(1, 28)}, {fields['buyer']} asked us for {fields['count']} {fields['item']}s."
    return {"text": text, "order": fields}


def question(rng: Random) -> Record:
    """Return a question with four options of its own."""
    small = rng.choice(SMALL)
    options = [small, *rng.sample(LARGE, 3)]
    rng.shuffle(options)
    text = f"Which of these fits into box {rng.randint(1, 400)}?"
    return {"question": text, "options": options, "correct": small}


def chat(rng: Random) -> Record:
    """Return a conversation of two turns; the answers have several lines."""
    counts = dict(zip(rng.sample(FRUITS, 3), rng.sample(range(2, 30), 3), strict=True))
    lines = [f"- {count} {fruit}" for fruit, count in counts.items()]
    wishes = [line.removeprefix("- ") for line in lines]
    return {
        "messages": [
            {"role": "system", "content": "You keep a shopping list."},
            {"role": "user", "content": f"I need {wishes[0]} and {wishes[1]}."},
            {"role": "assistant", "content": "\n".join(lines[:2])},
            {"role": "user", "content": f"Add {wishes[2]}."},
            {"role": "assistant", "content": "\n".join(lines)},
        ]
    }


def paragraph(rng: Random) -> Record:
    """Return a text of two sentences."""
    sentences = [
        f"The {rng.choice(PLACES)} on the {rng.choice(RIVERS)} was built by {rng.choice(NAMES)}."
        for _ in range(2)
    ]
    return {"text": " ".join(sentences)}


def passage(rng: Random) -> Record:
    """Return a passage with one of the two questions about it."""
    about = Random(rng.randrange(PASSAGES))
    place, year, builder = about.choice(PLACES), about.randint(1800, 1999), about.choice(NAMES)
    context = f"The {place} on the {about.choice(RIVERS)} was opened in {year}. {builder} designed it."
    asked, answer = rng.choice(
        [(f"When was the {place} opened?", str(year)), (f"Who designed the {place}?", builder)]
    )
    return {"context": context, "question": asked, "answer": answer}


def distinct(make: Callable[[Random], Record], count: int) -> list[Record]:
    """Return different records, the same ones every time."""
    rng, records = Random(0), dict[str, Record]()
    while len(records) < count:
        record = make(rng)
        records.setdefault(json.dumps(record), record)
    return list(records.values())


def make_data(folder: Path, count: int = RECORDS) -> None:
    """Write the data files of all jobs into a folder, `count` records for each job."""
    folder.mkdir(exist_ok=True)
    for name, make in {
        "reviews": review,
        "tickets": ticket,
        "messages": message,
        "orders": order,
        "chats": chat,
        "passages": passage,
    }.items():
        lines = (json.dumps(record) + "\n" for record in distinct(make, count))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    with (folder / "paragraphs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text"])
        writer.writeheader()
        writer.writerows(distinct(paragraph, count))
    questions = iter(distinct(question, count))
    for split, share in SPLITS.items():
        table = arrow.Table.from_pylist(list(islice(questions, round(share * count))))
        parquet.write_table(table, folder / f"questions-{split}.parquet")


if __name__ == "__main__":
    make_data(Path(__file__).parent / "data")
