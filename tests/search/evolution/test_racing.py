from typing import Any

import pytest

from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.racing import Race, room_of
from ranksieve.search.evolution.settings import SearchSettings

SETTINGS = SearchSettings(population=4, offspring=5, survivors=2, screen=4, full=16)
GENOMES = [(0, 0, i) for i in range(5)]


def score(trial: Trial) -> Outcome:
    return Outcome(
        genome=trial.genome,
        examples=trial.examples,
        kl_nats=float(trial.genome[2]),
        drop_points=0.0,
        metric=1.0,
    )


def start(*genomes: tuple[int, ...], known: dict[Trial, Outcome] | None = None, **options: Any) -> Race:
    settings = options.pop("settings", SETTINGS)
    return Race(genomes, settings=settings, known=(known or {}).get, **options)


def run(race: Race) -> list[list[Trial]]:
    """The trials of each stage, answered last one first."""
    stages, trials = [], race.start()
    while trials:
        stages.append(trials)
        *waiting, trials = [race.tell(score(trial)) for trial in reversed(trials)]
        assert not any(waiting)
    assert race.finished
    return stages


def test_all_are_screened_and_the_best_go_on() -> None:
    race = start(*GENOMES, GENOMES[0])
    stages = run(race)
    assert [[trial.examples for trial in stage] for stage in stages] == [[4] * 5, [16] * 2]
    assert [outcome.genome for outcome in race.finishers] == GENOMES[:2]
    assert [outcome.trial for outcome in race.outcomes] == stages[0] + stages[1]
    assert [{(trial.known, trial.cut) for trial in stage} for stage in stages] == [{(0, 0)}, {(4, 4)}]
    assert [{trial.screening for trial in stage} for stage in stages] == [{True}, {False}]
    assert race.cost == 7


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("limit", range(1, 9))
def test_how_many_have_room_is_told_before_they_are_known(count: int, limit: int) -> None:
    race = start(*GENOMES[:count], limit=limit)
    assert len(race.candidates) == room_of(SETTINGS, count, limit)


def test_a_stage_ends_with_its_last_answer() -> None:
    race = start(*GENOMES)
    trials = race.start()
    assert [race.tell(score(trial)) for trial in trials[1:]] == [[]] * 4
    assert race.tell(score(trials[1])) == []  # told before
    assert race.finishers == []
    assert [trial.genome for trial in race.tell(score(trials[0]))] == GENOMES[:2]
    assert not race.finished


def test_a_protected_genome_passes_the_screen() -> None:
    race = start(*GENOMES, protected=GENOMES[4])
    run(race)
    assert [outcome.genome for outcome in race.finishers] == [GENOMES[0], GENOMES[4]]


def test_a_failure_never_goes_on() -> None:
    trial = Trial(genome=GENOMES[0], examples=4)
    race = start(*GENOMES, known={trial: Outcome.failed(trial, "NaN")}, protected=GENOMES[0])
    stages = run(race)
    assert len(stages[0]) == 4
    assert [outcome.genome for outcome in race.finishers] == GENOMES[1:3]


def test_what_is_known_is_not_scored_again() -> None:
    screens = [Trial(genome=genome, examples=4) for genome in GENOMES]
    fulls = [Trial(genome=genome, examples=16) for genome in GENOMES]
    known = {trial: score(trial) for trial in screens}
    assert run(start(*GENOMES, known=known)) == [fulls[:2]]
    known |= {trial: score(trial) for trial in fulls[:2]}
    race = start(*GENOMES, known=known)
    assert run(race) == []
    assert [outcome.genome for outcome in race.finishers] == GENOMES[:2]


def test_no_candidates_make_a_race_that_is_over() -> None:
    race = start()
    assert run(race) == []
    assert (race.finishers, race.cost) == ([], 0)


def test_no_screen_where_it_cannot_select_or_save() -> None:
    full = SearchSettings(population=4, offspring=5, survivors=2, screen=16, full=16)
    for race in (
        start(*GENOMES, settings=full),
        start(*GENOMES[:2]),
        start(*GENOMES, screened=False),
        start(*GENOMES, limit=4),  # two to screen, two to promote
    ):
        assert not race.screened
        assert {trial.examples for trial in race.start()} == {16}


def test_trials_are_cut_alike_with_a_screen_and_without() -> None:
    raced = run(start(*GENOMES))[-1]
    for race in (start(*GENOMES, screened=False), start(*GENOMES[:2])):
        assert {trial.cut for trial in race.start()} == {trial.cut for trial in raced} == {4}


def test_the_limit_is_never_passed() -> None:
    for limit in range(1, 13):
        race = start(*GENOMES, limit=limit)
        scored = [trial for stage in run(race) for trial in stage]
        assert 1 <= len(scored) <= race.cost <= limit
        assert sum(trial.examples == 16 for trial in scored) <= SETTINGS.survivors
        assert race.finishers


def test_the_candidates_of_a_race_make_the_same_race() -> None:
    for limit in range(1, 13):
        race = start(*GENOMES, limit=limit)
        again = start(*race.candidates, screened=race.screened)
        assert (again.candidates, again.screened, again.cost) == (race.candidates, race.screened, race.cost)
