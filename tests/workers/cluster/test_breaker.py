from ranksieve.workers.cluster.breaker import FAILURES, LONGEST_REST_S, Breaker


def test_the_first_failure_costs_no_rest_and_each_further_one_twice_as_much_up_to_a_limit() -> None:
    breaker = Breaker()
    assert [breaker.fail() for _ in range(9)] == [
        0.0,
        1.0,
        2.0,
        4.0,
        8.0,
        16.0,
        32.0,
        LONGEST_REST_S,
        LONGEST_REST_S,
    ]


def test_an_actor_is_out_after_too_many_failures_and_back_after_one_answer() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.fail()
    assert not breaker.is_out
    breaker.fail()
    assert breaker.is_out
    breaker.answer()
    assert not breaker.is_out
    assert breaker.fail() == 0.0
