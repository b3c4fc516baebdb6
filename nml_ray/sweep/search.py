"""Which points a sweep tries: grids, keyed draws, Optuna, and successive halving over them. No Ray; no state on disk.

Searchers are asked for trials and told their values, round by round. What they ask for depends on the settings and the
values alone, so a sweep that was killed asks for the same trials again and finds them made.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nml_ray.config.space import Space, rounded
from nml_ray.data.draw import draw_one, uniform_one
from nml_ray.storage.digest import canonical_json
from nml_ray.sweep.config import Asha, SweepSettings

Point = Mapping[str, Any]
"""Values by dotted path."""

TAG = "sweep"
"""Of the draws of `random`."""


@dataclass(frozen=True)
class Asked:
    """A trial to run: the number of its point, counted from 0, the rung that it is on, and its values."""

    number: int
    point: Point
    rung: int = 0


class Searcher(Protocol):
    """Where trials come from."""

    def ask(self, count: int | None) -> list[Asked]:
        """The next trials, at most so many (all that can be known now when None); none when the sweep has ended."""

    def tell(self, asked: Asked, value: float | None) -> None:
        """What a trial came to; None where it failed. Told in the order in which they were asked for."""


def searcher(settings: SweepSettings) -> Searcher:
    """The searcher that the settings describe."""
    larger = larger_is_better(settings)
    if settings.kind == "optuna":
        return Optuna(settings.search, settings.trials or 1, settings.seed, larger)
    points = grid(settings.search) if settings.kind == "grid" else drawn(settings)
    return Halving(points, settings.asha, larger) if settings.asha else Listed(points)


def larger_is_better(settings: SweepSettings) -> bool:
    """Whether more of the metric is better."""
    return (settings.mode or ("min" if settings.metric.endswith("loss") else "max")) == "max"


def grid(search: Mapping[str, Space]) -> list[Point]:
    """All combinations of choices, those of the field written last changing fastest."""
    lists = [space.choice or [] for space in search.values()]
    return [dict(zip(search, values, strict=True)) for values in itertools.product(*lists)]


def drawn(settings: SweepSettings) -> list[Point]:
    """Keyed draws, equal points once; a field's value depends on seed, name and number alone."""
    points = [
        {path: space.at(uniform_one(TAG, settings.seed, path, number)) for path, space in settings.search.items()}
        for number in range(settings.trials or 0)
    ]
    return list({canonical_json(point): point for point in points}.values())


class Listed:
    """Points that are all known from the start."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._left: Iterator[tuple[int, Point]] = iter(enumerate(points))

    def ask(self, count: int | None) -> list[Asked]:
        """The next points."""
        return [Asked(number, point) for number, point in itertools.islice(self._left, count)]

    def tell(self, asked: Asked, value: float | None) -> None:
        """Nothing is learnt."""


@dataclass
class _Rung:
    """Values of the trials that have finished a rung, and the points that have left it for the next."""

    values: dict[int, float] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)


class Halving:
    """The asynchronous successive halving of Li et al. (2020): of those that have finished a rung the best 1/factor go
    on, as soon as they are known to be, and only where none can a new point begins."""

    def __init__(self, points: Sequence[Point], asha: Asha, larger: bool) -> None:
        self._points, self._asha, self._sign = points, asha, -1 if larger else 1
        self._begun = 0
        self._rungs = [_Rung() for _ in asha.epochs]

    def ask(self, count: int | None) -> list[Asked]:
        """Those that go on, highest rung first, then new points."""
        asked: list[Asked] = []
        while count is None or len(asked) < count:
            one = self._next(last=not asked)
            if one is None:
                break
            asked.append(one)
        return asked

    def _next(self, last: bool) -> Asked | None:
        for rung in reversed(range(len(self._rungs) - 1)):
            if best := self._promoted(rung, at_least=0):
                return self._asked(best[0], rung + 1)
        if self._begun < len(self._points):
            self._begun += 1
            return self._asked(self._begun - 1, 0)
        # Fewer than `factor` trials would never reach the last rung: once nothing else is left the best one does.
        for rung in range(len(self._rungs) - 1) if last else ():
            if best := self._promoted(rung, at_least=1):
                return self._asked(best[0], rung + 1)
        return None

    def _promoted(self, rung: int, at_least: int) -> list[int]:
        found = self._rungs[rung]
        order = sorted(found.values, key=lambda number: (self._sign * found.values[number], number))
        return [n for n in order[: max(len(order) // self._asha.factor, at_least)] if n not in found.gone]

    def _asked(self, number: int, rung: int) -> Asked:
        if rung:
            self._rungs[rung - 1].gone.add(number)
        return Asked(number, {**self._points[number], self._asha.field: self._asha.epochs[rung]}, rung)

    def tell(self, asked: Asked, value: float | None) -> None:
        """A trial that failed is not ranked."""
        if value is not None:
            self._rungs[asked.rung].values[asked.number] = value


class Optuna:
    """Tree-structured Parzen estimators of Optuna, in memory: resuming tells them anew what is already known."""

    def __init__(self, search: Mapping[str, Space], trials: int, seed: int, larger: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # Points of one round keep their distance: those that are open count as bad ones.
        sampler = optuna.samplers.TPESampler(seed=draw_one(TAG, seed, "optuna") & 0xFFFFFFFF, constant_liar=True)
        self._study = optuna.create_study(direction="maximize" if larger else "minimize", sampler=sampler)
        self._search, self._trials = search, trials
        self._spaces = {path: _distribution(space) for path, space in search.items()}
        self._open: dict[int, Any] = {}

    def ask(self, count: int | None) -> list[Asked]:
        """The next points, by all that has been told."""
        begun = len(self._study.trials)
        asked = []
        for number in range(begun, min(self._trials, begun + (count or self._trials))):
            trial = self._open[number] = self._study.ask(self._spaces)
            point = {path: _value(space, trial.params[path]) for path, space in self._search.items()}
            asked.append(Asked(number, point))
        return asked

    def tell(self, asked: Asked, value: float | None) -> None:
        """What a point came to."""
        from optuna.trial import TrialState

        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self._study.tell(self._open.pop(asked.number), value, state)


def _distribution(space: Space) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if space.choice is not None:
        return CategoricalDistribution(range(len(space.choice)))
    if space.integers:
        return IntDistribution(*space.integers)
    ends = space.uniform or space.log_uniform
    assert ends
    return FloatDistribution(*ends, log=space.uniform is None)


def _value(space: Space, found: Any) -> Any:
    if space.choice is not None:
        return space.choice[found]
    ends = space.uniform or space.log_uniform
    return rounded(found, *ends) if ends else found
