"""Settings of the towers, searched for with Optuna: short trainings, judged by validation interactions alone.

The first trial has the default settings, so a search never chooses what validates worse. A trial that stands below the
median of the others at the same epoch is given up. Everything is in a journal file: a search that was killed goes on.
"""

import hashlib
from pathlib import Path
from typing import Final

import msgspec
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from central.datasets.interactions import Interactions, Split
from central.training.config import RetrievalConfig, SearchReport
from central.training.retrieval import train_retrieval
from infra.plumbing.clock import Clock
from infra.plumbing.progress import Progress, SilentProgress

EPOCHS_SHARE: Final = 0.4
"""A trial's schedule, as a share of the whole training's."""
EPOCHS_MIN: Final = 3
STARTUP_TRIALS: Final = 3
WARMUP_EPOCHS: Final = 1


def search_settings(
    data: Interactions, split: Split, base: RetrievalConfig, *, trials: int, file: Path, clock: Clock,
    progress: Progress,
) -> tuple[RetrievalConfig, SearchReport]:  # fmt: skip
    """Try `trials` settings in all, those in `file` included; returns the best and how it was found.

    Args:
        data: the dataset.
        split: what may be seen; its test interactions are not.
        base: the default settings; its seed is the sampler's too.
        trials: how many, given up or not.
        file: the journal.
        clock: measures.
        progress: told after each trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base_epochs = max(EPOCHS_MIN, round(EPOCHS_SHARE * base.epochs))
    name = hashlib.sha256(msgspec.json.encode((data.card.sha256, base))).hexdigest()[:20]
    file.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name, storage=JournalStorage(JournalFileBackend(str(file))), direction="maximize",
        load_if_exists=True, sampler=optuna.samplers.TPESampler(seed=base.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP_EPOCHS),
    )  # fmt: skip
    if not study.trials:
        study.enqueue_trial(_default_choice(base))

    def objective(trial: optuna.Trial) -> float:
        config = msgspec.structs.replace(_chosen(base, _suggested(trial)), epochs=base_epochs)
        return _validated(data, split, config, trial, clock)

    while (done := len(_finished(study))) < trials:
        progress.advance(done, trials, "searching settings")
        study.optimize(objective, n_trials=1)
    progress.advance(trials, trials, "searching settings")
    return _chosen(base, study.best_params), _report(study, name)


def _validated(data: Interactions, split: Split, config: RetrievalConfig, trial: optuna.Trial, clock: Clock) -> float:
    pruned = False

    def watch(epoch: int, ndcg10: float) -> bool:
        nonlocal pruned
        trial.report(ndcg10, epoch)
        pruned = trial.should_prune()
        return not pruned

    trained = train_retrieval(data, split, config, clock=clock, progress=SilentProgress(), watch=watch)
    if pruned:
        raise optuna.TrialPruned
    return max(trained.curve)


def _suggested(trial: optuna.Trial) -> dict[str, float]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "item_dropout": trial.suggest_float("item_dropout", 0.0, 0.2),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        "layers": trial.suggest_int("layers", 1, 3),
    }


def _default_choice(base: RetrievalConfig) -> dict[str, float]:
    names = ("learning_rate", "dropout", "item_dropout", "weight_decay", "layers")
    return {name: getattr(base, name) for name in names}


def _chosen(base: RetrievalConfig, values: dict[str, float]) -> RetrievalConfig:
    return msgspec.structs.replace(base, **{**values, "layers": int(values["layers"])})


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _report(study: optuna.Study, name: str) -> SearchReport:
    finished = _finished(study)
    first = finished[0].value
    return SearchReport(
        trials=len(finished), pruned=sum(trial.state is TrialState.PRUNED for trial in finished),
        default=float(first) if first is not None else 0.0, best=float(study.best_value),
        chosen={key: float(value) for key, value in study.best_params.items()}, study=name,
    )  # fmt: skip
