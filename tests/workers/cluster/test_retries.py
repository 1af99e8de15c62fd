from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.cluster.retries import Attempt
from ranksieve.workers.types.scores import Failure, ScoreRequest

REQUEST = ScoreRequest(ranks=(4, 2), split="search", start=0, stop=8)
IN_ITS_PLACE = ScoreRequest(ranks=(DENSE, DENSE), split="search", start=0, stop=8)


def attempt(method: str = "score") -> Attempt:
    return Attempt(key="key", method=method, request=REQUEST)


def failed_on(*actors: int, method: str = "score") -> Attempt:
    failed = attempt(method)
    for actor in actors:
        failed.fail(actor, "died: of something")
    return failed


def test_an_answer_is_what_it_is() -> None:
    assert attempt().call() == ("score", REQUEST)
    assert failed_on(0, 1).call() == ("score", REQUEST)
    assert failed_on(0, 1).outcome("scores") == "scores"


def test_a_candidate_is_to_blame_if_the_dense_model_does_no_harm_in_its_place() -> None:
    suspect = failed_on(0, 1, 0)
    assert suspect.call() == ("score", IN_ITS_PLACE)
    assert suspect.outcome("scores") == Failure(reason="3 actors in a row: the actor died: of something")


def test_a_candidate_is_tried_again_if_the_dense_model_does_as_much_harm() -> None:
    suspect = failed_on(0, 0, 0, 0)
    assert suspect.call() == ("score", REQUEST)
    suspect.fail(0, "died: again")
    assert suspect.outcome("scores") == "scores"


def test_there_is_nobody_to_blame_where_the_dense_model_is_scored() -> None:
    assert failed_on(*range(9), method="score_dense").call() == ("score_dense", REQUEST)


def test_a_request_goes_to_an_actor_that_it_has_not_met_as_long_as_one_is_up() -> None:
    assert attempt().choose([1, 0], {0, 1}) == 1
    assert failed_on(0).choose([0, 1], {0, 1}) == 1
    assert failed_on(0).choose([0], {0, 1}) is None  # 1 is at work
    assert failed_on(0).choose([0], {0}) == 0
    assert failed_on(0, 1).choose([0, 1], {0, 1}) == 0


def test_a_proof_goes_to_an_actor_that_failed_and_another_one_gets_the_request_itself() -> None:
    suspect = failed_on(0, 0, 0)
    assert suspect.choose([], {1}) is None
    assert suspect.choose([1, 0], {0, 1}) == 0
    assert suspect.call() == ("score", IN_ITS_PLACE)
    assert suspect.choose([1], {1}) == 1
    assert suspect.call() == ("score", REQUEST)
    suspect.fail(1, "died, too")
    assert suspect.outcome("scores") == Failure(reason="4 actors in a row: the actor died, too")
