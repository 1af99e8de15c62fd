from search.archive import Memo
from search.outcome import Outcome, Trial
from search.racing import Race
from search.settings import SearchSettings

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


def run(race: Race, memo: Memo) -> list[list[Trial]]:
    stages = []
    while trials := race.next_trials():
        stages.append(trials)
        for trial in trials:
            memo.add(score(trial))
    return stages


def test_all_are_screened_and_the_best_go_on(tiny) -> None:
    memo = Memo(tiny[0])
    race = Race([*GENOMES, GENOMES[0]], settings=SETTINGS, memo=memo, limit=100)
    stages = run(race, memo)
    assert [[trial.examples for trial in stage] for stage in stages] == [[4] * 5, [16] * 2]
    assert [outcome.genome for outcome in race.finishers] == GENOMES[:2]


def test_a_protected_genome_passes_the_screen(tiny) -> None:
    memo = Memo(tiny[0])
    race = Race(GENOMES, settings=SETTINGS, memo=memo, limit=100, protected=GENOMES[4])
    run(race, memo)
    assert [outcome.genome for outcome in race.finishers] == [GENOMES[0], GENOMES[4]]


def test_a_failure_never_goes_on(tiny) -> None:
    memo = Memo(tiny[0], [Outcome.failed(Trial(genome=GENOMES[0], examples=4), "NaN")])
    race = Race(GENOMES, settings=SETTINGS, memo=memo, limit=100, protected=GENOMES[0])
    stages = run(race, memo)
    assert len(stages[0]) == 4
    assert [outcome.genome for outcome in race.finishers] == GENOMES[1:3]


def test_the_memo_answers_a_whole_stage(tiny) -> None:
    memo = Memo(tiny[0], [score(Trial(genome=genome, examples=4)) for genome in GENOMES])
    race = Race(GENOMES, settings=SETTINGS, memo=memo, limit=100)
    assert [trial.examples for trial in race.next_trials()] == [16, 16]


def test_no_screen_where_it_cannot_select_or_save(tiny) -> None:
    memo = Memo(tiny[0])
    full = SearchSettings(population=4, offspring=5, survivors=2, screen=16, full=16)
    for race in (
        Race(GENOMES, settings=full, memo=memo, limit=100),
        Race(GENOMES[:2], settings=SETTINGS, memo=memo, limit=100),
        Race(GENOMES, settings=SETTINGS, memo=memo, limit=100, screened=False),
        Race(GENOMES, settings=SETTINGS, memo=memo, limit=1),
    ):
        assert {trial.examples for trial in race.next_trials()} == {16}


def test_the_limit_is_never_passed(tiny) -> None:
    for limit in range(1, 10):
        memo = Memo(tiny[0])
        race = Race(GENOMES, settings=SETTINGS, memo=memo, limit=limit)
        run(race, memo)
        assert 1 <= len(memo) <= limit
        assert race.finishers
