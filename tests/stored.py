"""Studies that no training has made, stored as a search stores them: their trials' reports, and the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.metrics import Picks, Ranks, chance, is_loss, summarise
from reranker.report_figures import is_better, report_number
from reranker.storage.atomic_files import write_yaml
from results.study.journal_file import storage
from results.study.list_facts import ListFacts
from results.study.optuna_journal import CONFIG, ORIGIN, create_journal
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import DRAWN, Origin

CANDIDATES, USERS = 10, 240
_STATES = {
    TrialStatus.COMPLETED: TrialState.COMPLETE,
    TrialStatus.PRUNED: TrialState.PRUNED,
    TrialStatus.FAILED: TrialState.FAIL,
}


def report(
    folder: TrialFolder,
    users: list[str],
    ranks: Ranks,
    picks: Picks | None = None,
    *,
    metric: str = "ndcg_at_10",
    **figures: Any,
) -> None:
    """The next report of a trial: its ranks, then its line of figures, in which these take the place of what they give."""
    earlier = folder.read_reports()
    number = len(earlier) + 1
    usual = {"epoch": number, "train_loss": 1.0, "val_loss": 1.0, "seconds": 5.0 * number}
    line = {**usual, **summarise(ranks), **figures, "report": number}
    best = all(is_better(line, other, metric) for other in earlier)
    folder.keep_report(number, users, ranks, picks, best=best)
    folder.append_report(line)


def keep_journal(study: StudyFolder) -> StudyFolder:
    """Make the journal of what the folder holds; trials that ended have their reports, the others run."""
    manifest = study.read_manifest()
    metric = manifest["metric"]
    study.journal.unlink(missing_ok=True)
    create_journal(study.journal, study.name, minimise=is_loss(metric), manifest=manifest)
    journal = optuna.load_study(study_name=None, storage=storage(study.journal))
    stored = {trial.number: trial for trial in study.trials()}
    for number in range(max(stored, default=-1) + 1):
        trial = stored.get(number)
        state = TrialState.WAITING if trial is None else _STATES.get(trial.status, TrialState.RUNNING)
        reports = {} if trial is None else {report_number(e): float(e[metric]) for e in trial.reports}
        best = (min if is_loss(metric) else max)(reports.values(), default=0.0)
        journal.add_trial(
            create_trial(
                state=state,
                value=best if state is TrialState.COMPLETE else None,
                intermediate_values=reports,
                user_attrs={} if trial is None else _attributes(study, trial),
            )
        )
    return study


def _attributes(study: StudyFolder, trial: StoredTrial) -> dict[str, str]:
    origin = {} if trial.origin == DRAWN else {ORIGIN: str(trial.origin)}
    return {CONFIG: study.trial(trial.number).config_digest(), **origin}


class Maker:
    """Stored studies. A ranker's `skill` is by how much its true item's score stands out on average; 0 is chance."""

    def __init__(
        self, runs: Path, name: str = "films", *, knobs: tuple[str, ...] = ("learning_rate", "lora_rank")
    ) -> None:
        self.rng = np.random.default_rng(1)
        self.seed_variance = self.rng.normal(0, 0.7, USERS)  # of a user, whoever ranks
        self.study = StudyFolder.create(runs, name)
        self.study.write_manifest(
            {
                "study_id": "1", "fingerprint": "c0ffee", "metric": "ndcg_at_10", "knobs": list(knobs),
                "references": {"chance": chance(CANDIDATES)}, "best_reachable_recall_at_1": None,
                "tags": {"data_fingerprint": "f00d", "code_version": "0.1.0"},
                "plan": {
                    "sampler": "tpe", "seed": 0, "trials": 3, "source": "tables", "candidates": CANDIDATES,
                    "validation_lists": USERS,
                },
                "tracking_uri": "https://me:hunter2@tracking.example/x", "versions": {"torch": "2.13.0"},
                "command": ["tune/run_search.py", "films.yaml", "--webhook", "https://hooks.example/T0/hunter2"],
            }
        )  # fmt: skip
        write_yaml(self.study.study_file, "study: {name: films}\ndata: {source: demo}\n")
        self.journal = optuna.create_study(
            study_name=self.study.name, direction="maximize",
            storage=JournalStorage(JournalFileBackend(str(self.study.journal))),
        )  # fmt: skip
        self.study.write_ending("", complete=True)

    def ranks(self, skill: float, lean: float = 0.0) -> tuple[list[str], Ranks, Picks]:
        """`lean` is the share of lists in which the first label stands first, whatever it holds."""
        scores = self.rng.normal(0, 1, (USERS, CANDIDATES))
        targets = self.rng.integers(0, CANDIDATES, USERS)
        scores[: round(lean * USERS), 0] += 9
        scores[np.arange(USERS), targets] += skill + (self.seed_variance if skill else 0)
        own = scores[np.arange(USERS), targets, None]
        picks = Picks(targets, scores.argmax(axis=1), np.exp(scores).max(axis=1) / np.exp(scores).sum(axis=1))
        return [f"u{i}" for i in range(USERS)], Ranks((scores > own).sum(axis=1), np.zeros(USERS, np.int64)), picks

    def baseline(self, name: str, skill: float) -> Maker:
        users, ranks, _ = self.ranks(skill)
        self.study.baseline(name).keep_ranks(users, ranks)
        return self

    def lists(self, titles: Sequence[str] = ()) -> Maker:
        """What is known of the lists: short, middle and long histories; targets of the short head, the long tail, and a
        cold one in every twelfth list. The titles are of the first items, which are the most popular ones."""
        user, items = np.arange(USERS), 40
        target = np.where(user % 12 == 0, items - 1, np.where(user % 2 == 0, user % 8, 8 + user % 31))
        candidates = (target[:, None] + np.arange(CANDIDATES)) % items  # the target first …
        places = (np.arange(CANDIDATES) + user[:, None]) % CANDIDATES  # … then anywhere
        popularity = np.array([*np.repeat(50, 8), *np.repeat(5, items - 9), 0])
        facts = ListFacts(
            [f"u{i}" for i in user],
            2 + user * 3 // USERS,
            target,
            np.take_along_axis(candidates, places, axis=1).astype(np.int32),
            [f"i{i}" for i in range(items)],
            [*titles, *(f"Item {i}" for i in range(len(titles), items))],
            popularity,
        )
        facts.keep(self.study)
        return self

    def untrained(self, model: str, skill: float = 0.0, lean: float = 0.0, **figures: Any) -> Maker:
        """The base as it is, of which these figures are known besides its ranks."""
        users, ranks, picks = self.ranks(skill, lean)
        folder, _ = self.study.zero_shot(model)
        folder.write_figures({**summarise(ranks), **figures})
        folder.keep_ranks(users, ranks, picks)
        return self

    def trial(
        self,
        skill: float,
        *,
        figures: Mapping[str, Any] | None = None,
        lean: float = 0.0,
        status: TrialStatus = TrialStatus.COMPLETED,
        cause: str = "",
        origin: str = "",
        **knobs: Any,
    ) -> Maker:
        """`figures` take the place of its own in each epoch, or one by one where they are listed."""
        number = len(self.study.numbers())
        config = TrialConfig(
            **{"model": "demo-tiny", "epochs": 2, "candidates": CANDIDATES, "learning_rate": 1e-3, **knobs}
        )
        self.study.start_trial(number, config, Origin.parse(origin))
        params = {"learning_rate": config.learning_rate, "lora_rank": config.lora_rank}
        spaces = {
            "learning_rate": FloatDistribution(1e-6, 1, log=True),
            "lora_rank": CategoricalDistribution([4, 8, 16]),
        }
        state = optuna.trial.TrialState.FAIL
        value = None
        if status is not TrialStatus.FAILED:
            for epoch in range(1, config.epochs + 1):
                users, ranks, picks = self.ranks(skill * epoch / config.epochs, lean)
                own = {
                    "train_loss": 2.5 - skill * epoch / 4, "val_loss": 2.6 - skill * epoch / 4,
                    "seconds": 10.0 * epoch * config.lora_rank, "seconds_per_list": 0.002,
                    "applied/optimizer_steps": 200 * epoch, "applied/learning_rate": config.learning_rate,
                    "applied/flops_per_list": 1e9, "applied/parameters": 1_000_000 * config.lora_rank,
                    "applied/examples": 4000 * epoch,
                }  # fmt: skip
                told = {k: v[epoch - 1] if isinstance(v, list) else v for k, v in (figures or {}).items()}
                report(self.study.trial(number), users, ranks, picks, **{**own, **told})
            state, value = optuna.trial.TrialState.COMPLETE, summarise(ranks)["ndcg_at_10"]
        journal = optuna.load_study(
            study_name=None, storage=storage(self.study.journal)
        )  # another file, once it is kept
        journal.add_trial(optuna.trial.create_trial(state=state, params=params, distributions=spaces, value=value))
        self.study.write_status(number, status, cause=cause)
        return self
