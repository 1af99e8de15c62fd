"""A test over several sizes, from the largest down: the fallback procedure."""

from collections.abc import Callable, Sequence


def fallback(
    risks: Sequence[float], risk: float, least_risk: Callable[[int, float], float | None]
) -> tuple[int, ...]:
    """Tests candidates from the largest down, so that the chance of any wrong acceptance is that of a single test.

    Each candidate may have a part of the risk to itself; whoever holds passes on all that it was tested at to the next.
    With all of it on the first candidate the test ends at the first that fails (fixed sequence testing). With parts on
    later ones it goes on there, at less risk. Candidates that are left with none are not tested.

    Only the last that holds is wanted, and a test costs: so it begins where the last part of the risk is. What the
    candidates before might pass on lies between nothing and all that is theirs; where the end is the same with either,
    they are not tested at all.

    Args:
        risks: Of each candidate, the part that is its own; they add up to one at most.
        risk: Of any wrong acceptance, over all candidates.
        least_risk: The least risk at which the candidate at an index holds, a p-value; None where it cannot be told,
            and it is passed over. Told, too, at which risk it is tested: any p-value that is not above that will do.
            Asked of the same candidate more than once.

    Returns:
        Indices of candidates that hold, rising, as far as they had to be tested. The last one is that of a test of all.

    Source: Wiens 2003, The fallback procedure, Pharmaceutical Statistics 2(3); for risks of models Learn then Test,
        arXiv 2110.01052, section 4.
    """

    for start in reversed([index for index, own in enumerate(risks) if own > 0]):
        passed_on = risk * sum(risks[:start])
        least = fallback_from(start, 0.0, risks, risk, least_risk)
        if not passed_on:  # nobody is before
            return least
        most = fallback_from(start, passed_on, risks, risk, least_risk)
        if least and least[-1] == most[-1]:
            return least  # what holds whatever those before pass on
    return ()


def fallback_from(
    start: int,
    passed_on: float,
    risks: Sequence[float],
    risk: float,
    least_risk: Callable[[int, float], float | None],
) -> tuple[int, ...]:
    """The same test of a candidate and all behind it; from 0 on, with nothing passed on, of all.

    Args:
        start: Index of the first to test.
        passed_on: The risk that those before have passed on.
        risks: As of `fallback`.
        risk: As of `fallback`.
        least_risk: As of `fallback`.

    Returns:
        Indices of all of them that hold, rising.
    """
    held, at_hand = [], passed_on
    for index in range(start, len(risks)):
        at_hand = min(at_hand + risks[index] * risk, risk)
        if at_hand <= 0:
            continue
        needed = least_risk(index, at_hand)
        if needed is None:
            continue
        if needed <= at_hand:
            held.append(index)
        else:
            at_hand = 0.0
    return tuple(held)
