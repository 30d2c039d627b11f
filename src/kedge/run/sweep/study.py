"""What optuna does: it keeps the trials, and proposes the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from kedge.run.sweep.space import Axis, Choice, Space, combinations, every

JOURNAL = "study.journal"
AGAIN = 20
"""How often a trial is drawn again that would repeat another one."""
ENOUGH, GOOD = 20, 0.25
"""Finished trials from which on it is said which field matters, and the share of them that count as good: five."""

Search = Literal["tpe", "random"]
Prune = Literal["none", "median", "hyperband"]


class Drawn(BaseSampler):
    """Proposals that follow from the seed, the trial's number and the trials before it: a sweep that was interrupted
    goes on as it would have gone on anyway, which one generator of random numbers for all trials would not let it.

    The first trial is the recipe as it is, where that lies in the ranges. None repeats another, as long as there are
    others: with the same seed a repeated run would come to the same figure.
    """

    def __init__(self, space: Space, own: Mapping[str, Any] | None, seed: int, search: Search) -> None:
        self.space, self.own, self.seed, self.search = space, own, seed, search
        self.distributions = {name: _distribution(axis) for name, axis in space.items()}
        self.whole: optuna.Study | None = None
        """All trials: a pruner may show us some of them."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All fields are drawn together."""
        return dict(self.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One proposal."""
        if trial.number == 0 and self.own is not None:
            return dict(self.own)
        seeds = np.random.SeedSequence([self.seed, trial.number])
        sampler = self._sampler(int(seeds.generate_state(1)[0]))
        taken, told = self._taken(trial), dict[str, Any]()
        for _ in range(AGAIN):
            told = {name: sampler.sample_independent(study, trial, name, of) for name, of in search_space.items()}
            if _key(told) not in taken:
                return told
        if combinations(self.space) > len(taken) + TOO_MANY:
            return told
        left = [one for one in every(self.space) if _key(one) not in taken]
        return left[np.random.default_rng(seeds).integers(len(left))] if left else told

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never asked: all fields are drawn together."""
        raise NotImplementedError(param_name)

    def _sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed) if self.search == "tpe" else RandomSampler(seed=seed)

    def _taken(self, trial: FrozenTrial) -> set[tuple[Any, ...]]:
        """What the trials before it have."""
        others = self.whole.get_trials(deepcopy=False) if self.whole is not None else []
        return {_key(other.params) for other in others if other.number < trial.number}


TOO_MANY = 100_000
"""Combinations that are not listed one by one."""


def _key(told: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(told.items()))


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, Choice):
        return CategoricalDistribution(axis.words)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


RUNGS: dict[Prune, tuple[tuple[int, float], ...]] = {
    "none": (),
    "median": ((1, 1 / 4), (2, 2 / 4), (3, 3 / 4)),
    "hyperband": ((1, 1 / 9), (3, 3 / 9)),
}
"""When a trial is looked at before its end: what optuna counts it as, and the share of the trial's steps."""


def pruner(prune: Prune) -> BasePruner:
    """What says which trials are not worth their end."""
    if prune == "median":
        return MedianPruner()
    return HyperbandPruner(1, 9, 3) if prune == "hyperband" else NopPruner()


def opened(folder: Path, sampler: Drawn, prune: Prune, highest: bool) -> optuna.Study:
    """The study of a sweep's folder, which nobody else has open."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL
    mend(path)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name="sweep",
        load_if_exists=True,
        direction="maximize" if highest else "minimize",
        sampler=sampler,
        pruner=pruner(prune),
    )
    sampler.whole = study
    return study


def mend(path: Path) -> None:
    """Takes away what a killed process may have left: half a line, after which optuna would write on, and its lock."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    held = path.read_bytes()
    if not held.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(held.rfind(b"\n") + 1)


def taken_up(study: optuna.Study, sampler: Drawn, trial: FrozenTrial | None = None) -> Trial:
    """The next trial with all its fields; or one that was begun before, of which some may not have been noted yet."""
    live = study.ask() if trial is None else Trial(study, trial._trial_id)
    for name, of in sampler.distributions.items():
        if isinstance(of, CategoricalDistribution):
            live.suggest_categorical(name, of.choices)
        elif isinstance(of, IntDistribution):
            live.suggest_int(name, of.low, of.high, log=of.log)
        elif isinstance(of, FloatDistribution):
            live.suggest_float(name, of.low, of.high, log=of.log)
    return live


def importance(study: optuna.Study, fields: Sequence[str]) -> dict[str, float]:
    """How much of the figure each field decides, as shares (PED-ANOVA: Watanabe, Bansal and Hutter, 2023); nothing
    where there are few trials, or one field.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < ENOUGH or len(fields) < 2 or len({trial.value for trial in finished}) < 2:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=GOOD)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(fields))
    return {name: float(share) for name, share in found.items()}
