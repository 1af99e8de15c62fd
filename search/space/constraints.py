"""Constraints on matrices, matched by name: bounds and ties.

Only this module knows names and fields of the job file. The resulting space knows allowed ranks and ties.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ranksieve.search.errors import InputError
from ranksieve.search.space.genes import Tie
from ranksieve.search.space.matrix import DENSE, MatrixShape, Price
from ranksieve.search.space.space import SearchSpace

Tied = Literal["layer", "all"]
"""`layer`: one gene per layer for the matched matrices; `all`: one for all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """One constraint on the matrices that it matches; several are combined by "and".

    Args:
        field: Its place in the job file.
        matrices: Shell patterns of names; each has to match something.
        min_density: Least share of its parameters that a matrix keeps.
        max_density: Most.
        tied: Which of the matched matrices share a gene.
    """

    field: str
    matrices: tuple[str, ...]
    min_density: float = 0.0
    max_density: float = 1.0
    tied: Tied | None = None

    def allows(self, shape: MatrixShape, rank: int) -> bool:
        """Return whether a matched matrix may have this rank."""
        return self.min_density <= shape.density(rank) <= self.max_density

    def members(self, matrices: Sequence[MatrixShape]) -> list[int]:
        """Return the indices of the matrices that the constraint covers.

        Raises:
            InputError: A pattern matches nothing.
        """
        for pattern in self.matrices:
            if not any(matches(shape.name, [pattern]) for shape in matrices):
                raise InputError(
                    f"{self.field}.matrices",
                    f"no matrix to prune matches {pattern!r}; they are named like {matrices[0].name!r}",
                )
        return [i for i, shape in enumerate(matrices) if matches(shape.name, self.matrices)]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a matrix's name fits one of the shell patterns.

    The full dotted name or any suffix of it after a dot may fit.
    """
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}") for pattern in patterns)


def constrained(
    matrices: Sequence[MatrixShape],
    rank_step: int,
    constraints: Sequence[Constraint],
    price: Price | None = None,
    absent: Sequence[MatrixShape] = (),
) -> SearchSpace:
    """Return the search space that the constraints allow.

    Args:
        matrices: As for `SearchSpace`.
        rank_step: As for `SearchSpace`.
        constraints: Constraints in the order of the job file.
        price: As for `SearchSpace`.
        absent: As for `SearchSpace`.

    Raises:
        InputError: A pattern matches nothing, constraints contradict each other, or a tie is invalid; names the
            field.
    """
    about: list[list[Constraint]] = [[] for _ in matrices]
    for constraint in constraints:
        for i in constraint.members(matrices):
            about[i].append(constraint)
    allowed = [
        _allowed(shape, shape.grid(rank_step), rules) for shape, rules in zip(matrices, about, strict=True)
    ]
    ties = _ties(matrices, constraints)
    return SearchSpace(matrices, rank_step, allowed=allowed, ties=ties, price=price, absent=absent)


def _allowed(shape: MatrixShape, grid: tuple[int, ...], rules: Sequence[Constraint]) -> tuple[int, ...]:
    allowed = tuple(rank for rank in grid if all(rule.allows(shape, rank) for rule in rules))
    if not allowed:
        *others, last = [rule.field for rule in rules if not _allows_all(rule, shape, grid)]
        with_others = f" together with {' and '.join(others)}" if others else ""
        raise InputError(
            last,
            f"{shape.name} has no level that fits{with_others}; its levels are {_shown(shape, grid)}; "
            "widen the bounds",
        )
    return allowed


def _allows_all(rule: Constraint, shape: MatrixShape, grid: tuple[int, ...]) -> bool:
    return all(rule.allows(shape, rank) for rank in grid)


def _shown(shape: MatrixShape, grid: tuple[int, ...]) -> str:
    ranks = [rank for rank in grid if rank != DENSE]
    step = f" in steps of {ranks[1] - ranks[0]}" if len(ranks) > 1 else ""
    density = shape.density(ranks[-1])
    return f"ranks 0 to {ranks[-1]}{step}, which keep up to {density:.3g} of its parameters, and dense"


def _ties(matrices: Sequence[MatrixShape], constraints: Sequence[Constraint]) -> list[Tie]:
    ties: list[Tie] = []
    tied: dict[int, str] = {}
    for constraint in constraints:
        if constraint.tied is None:
            continue
        field = f"{constraint.field}.tied"
        groups = _groups(matrices, constraint)
        if not groups:
            raise InputError(field, _nothing_tied(constraint.tied))
        for i in (i for group in groups for i in group):
            if i in tied:
                raise InputError(field, f"{matrices[i].name} is already tied by {tied[i]}; tie it only once")
            tied[i] = field
        ties.extend(Tie(members=group, field=field) for group in groups)
    return ties


def _groups(matrices: Sequence[MatrixShape], constraint: Constraint) -> list[tuple[int, ...]]:
    """Return the groups of matrices to tie; single matrices form no group."""
    groups: dict[int, list[int]] = {}
    for i in constraint.members(matrices):
        groups.setdefault(matrices[i].layer if constraint.tied == "layer" else 0, []).append(i)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _nothing_tied(tied: Tied) -> str:
    if tied == "layer":
        return "matches at most one matrix of each layer, so it ties nothing; match more, or tie all"
    return "matches a single matrix, so it ties nothing; match more"
