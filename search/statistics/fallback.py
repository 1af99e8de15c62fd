"""The fallback procedure: a test over several sizes, from the largest down."""

from collections.abc import Callable, Sequence


def fallback(risks: Sequence[float], risk: float, least_risk: Callable[[int], float]) -> tuple[int, ...]:
    """Test candidates from the largest down, at the risk of a single test.

    The chance of any wrong acceptance is that of a single test. Each candidate may have a part of the risk to itself.
    A candidate that holds passes all the risk it was tested at on to the next one. With all risk on the first
    candidate, the test ends at the first that fails (fixed sequence testing). With parts on later ones it continues
    there, at less risk. Candidates without any risk are not tested.

    A candidate with an unknown p-value fails, and the test goes on with the risk that later ones have of their own. If
    it were passed over, two candidates would be tested at the same risk wherever the first cannot be scored where it
    would have failed.

    Only the last candidate that holds is wanted, and a test costs. So the test begins where the last part of the risk
    is. What the candidates before might pass on lies between nothing and all that is theirs. Where both lead to the
    same end, these candidates are not tested at all.

    Args:
        risks: Part of the risk that each candidate has to itself; they add up to one at most.
        risk: Risk of any wrong acceptance, over all candidates.
        least_risk: Function that returns the least risk at which the candidate at an index holds, a p-value, or
            infinity if that is unknown. Called more than once per candidate.

    Returns:
        Rising indices of candidates that hold, as far as these had to be tested. The last index is the same as in a
        test of all.

    Source: Wiens 2003, The fallback procedure, Pharmaceutical Statistics 2(3); for risks of models Learn then Test,
        arXiv 2110.01052, section 4.
    """

    for start in reversed([index for index, own in enumerate(risks) if own > 0]):
        passed_on = risk * sum(risks[:start])
        least = fallback_from(start, 0.0, risks, risk, least_risk)
        if not passed_on:  # no earlier candidate has risk to pass on
            return least
        most = fallback_from(start, passed_on, risks, risk, least_risk)
        if least and least[-1] == most[-1]:
            return least  # holds whatever earlier candidates pass on
    return ()


def fallback_from(
    start: int,
    passed_on: float,
    risks: Sequence[float],
    risk: float,
    least_risk: Callable[[int], float],
) -> tuple[int, ...]:
    """Test a candidate and all after it, see `fallback`.

    From index 0, with no risk passed on, it is the test of all.

    Args:
        start: Index of the first candidate to test.
        passed_on: Risk that earlier candidates have passed on.
        risks: As for `fallback`.
        risk: As for `fallback`.
        least_risk: As for `fallback`.

    Returns:
        Rising indices of all candidates that hold.
    """
    held, at_hand = [], passed_on
    for index in range(start, len(risks)):
        at_hand = min(at_hand + risks[index] * risk, risk)
        if at_hand <= 0:
            continue
        if least_risk(index) <= at_hand:
            held.append(index)
        else:
            at_hand = 0.0
    return tuple(held)
