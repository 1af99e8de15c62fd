import threading

from ranksieve.workers.cluster.probe import Probe


def test_an_answer_is_passed_on() -> None:
    assert Probe(lambda: True)()
    assert not Probe(lambda: False)()


def test_a_question_that_fails_is_a_no() -> None:
    def fail() -> bool:
        raise ConnectionError("gone")

    assert not Probe(fail)()


def test_a_question_that_hangs_is_a_no_and_is_asked_once() -> None:
    asked, answer = [], threading.Event()

    def hang() -> bool:
        asked.append(1)
        return answer.wait(60)

    probe = Probe(hang, timeout_s=0.01)
    assert [probe() for _ in range(3)] == [False] * 3
    assert len(asked) == 1

    answer.set()
    patient = Probe(hang, timeout_s=10)
    assert patient()


def test_it_is_asked_again_once_it_was_answered() -> None:
    answers = iter([True, False, True])
    probe = Probe(lambda: next(answers))

    assert [probe(), probe(), probe()] == [True, False, True]
