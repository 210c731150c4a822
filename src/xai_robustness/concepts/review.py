"""Review of the suspects by an oracle with a budget or a person's table, and the artifact labels from it."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator

from xai_robustness.concepts.answers import read_reviews
from xai_robustness.concepts.refinement import Refiner, Strategy, suspect_rows, whitenings
from xai_robustness.concepts.samples import SAMPLE_COLUMNS, LatentsReader, rows_of, sample_table
from xai_robustness.concepts.suspicion import in_order
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError, Params

log = logging.getLogger(__name__)

REVIEW_COLUMNS = (*SAMPLE_COLUMNS, "artifact", "source", "suspect", "confirmed")
LABEL_COLUMNS = (*SAMPLE_COLUMNS, "artifact", "source")
PROPOSAL_COLUMNS = (*SAMPLE_COLUMNS, "score", "artifact")
CONTROL = "control"
"""In the column suspect: a sample that was looked at for none of them."""


class ReviewParams(Params):
    """Who looks at the suspects, and at how many samples."""

    reviewer: Literal["oracle", "csv"] = Field("oracle", description="oracle: the known truth; csv: a person's table")
    csv: tuple[str, ...] = Field(
        (), description="table with the columns sample_id and artifact (0 or 1), or several: the later answer wins"
    )
    budget: int = Field(200, ge=0, description="train samples that the oracle looks at")
    val_budget: int = Field(100, ge=0, description="validation samples that the oracle looks at")
    per_suspect: int = Field(10, ge=2, description="typical members looked at to judge a suspect")
    min_purity: float = Field(0.5, gt=0, le=1, description="share of artifacts among them that confirms a suspect")
    refine_share: float = Field(0.25, ge=0, le=1, description="share of the budget kept for the refinement")
    strategy: Strategy = Field("uncertain", description="what is looked at next: highest, uncertain, mixed")
    rounds: int = Field(3, ge=1, description="times that the labels are refined: fit, look at samples, fit again")

    @field_validator("csv", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return () if given is None else (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _needs_table(self) -> Self:
        if (self.reviewer == "csv") != bool(self.csv):
            raise ValueError("give a csv with reviewer 'csv', and only then")
        return self


@dataclass
class _Oracle:
    """Answers from the truth and remembers every look; a sample is looked at once."""

    answers: dict[int, bool]
    seen: dict[int, tuple[bool, str]] = field(default_factory=dict)

    def look(self, ids: Iterable[int], suspect: str, at_most: int) -> list[bool]:
        """Answers for `ids` until `at_most` new looks are spent."""
        found = []
        for sample_id in map(int, ids):
            if sample_id not in self.seen:
                if at_most <= 0:
                    break
                at_most -= 1
                self.seen[sample_id] = (self.answers[sample_id], suspect)
            found.append(self.seen[sample_id][0])
        return found


def review_suspects(
    suspects: pd.DataFrame,
    members: pd.DataFrame,
    samples: pd.DataFrame,
    truth: pd.DataFrame | None,
    params: ReviewParams,
    seed: int,
) -> pd.DataFrame:
    """Look at samples of the suspects and say which carry the artifact.

    The oracle goes through the list and looks at the `per_suspect` most typical members of each suspect but single
    samples; one of which at least `min_purity` carry the artifact is confirmed; looking stops where that is out of
    reach. Half of the budget (less `refine_share`) goes to the suspects, first for judging, then to random members
    of the confirmed ones; the other half to random train samples of the same classes outside of them, and
    `val_budget` to random validation samples of these classes.

    Args:
        suspects: the one list, of `suspicion.Lists`.
        members: their samples, of `suspicion.Lists`.
        samples: `samples.sample_table` of train and val.
        truth: sample_id and artifact of biased train and val; only the oracle needs it.
        params: see `ReviewParams`.
        seed: the run's seed.

    Returns:
        A row a reviewed sample (`REVIEW_COLUMNS`): what it shows, who said so, the suspect it was looked at for, or
        `CONTROL`, and whether its class has a confirmed suspect. A person's tables, one a round, confirm the classes in
        which they have an artifact; where two of them name a sample, the later table's answer wins.

    Raises:
        InputError: a table is missing or malformed, or names samples that train and val do not have.
    """
    if params.reviewer == "csv":
        return _from_tables(params.csv, suspects, members, samples)
    if truth is None:
        raise InputError("The truth parameter of review_suspects must be given to the oracle. Got None instead.")
    oracle = _Oracle(_answers(truth))
    confirmed = _judge(oracle, suspects, members, params, seed)
    classes = suspects.loc[suspects["name"].isin(confirmed), "class"].unique()
    inside = members.loc[members["name"].isin(confirmed), "sample_id"]
    ours = samples[samples["class"].isin(classes)]
    control = ours[(ours["split"] == "train") & ~ours["sample_id"].isin(inside)]["sample_id"].to_numpy()
    control = control[~np.isin(control, list(oracle.seen))]
    oracle.look(_shuffled(control, seed, "control"), CONTROL, _first_look(params) - _first_look(params) // 2)
    val = ours.loc[ours["split"] == "val", "sample_id"].to_numpy()
    oracle.look(_shuffled(val, seed, "val"), CONTROL, params.val_budget)
    return _table(oracle, samples, classes)


def _first_look(params: ReviewParams) -> int:
    return params.budget - round(params.refine_share * params.budget)


def _shuffled(ids: np.ndarray, seed: int, *names: str | int) -> np.ndarray:
    return ids[numpy_rng(seed, "review", *names).permutation(len(ids))]


def _answers(truth: pd.DataFrame) -> dict[int, bool]:
    return dict(zip(truth["sample_id"].astype(int), truth["artifact"].astype(bool)))


def _judge(
    oracle: _Oracle, suspects: pd.DataFrame, members: pd.DataFrame, params: ReviewParams, seed: int
) -> list[str]:
    """Confirmed suspects; spends half of the first look on them, at most half of that on judging once one is found."""
    budget = _first_look(params) // 2
    ranked = list(suspects[suspects["kind"] != "sample"].sort_values("place")["name"])
    lists = {s: members.loc[members["name"] == s, "sample_id"].to_numpy() for s in ranked}
    confirmed: list[str] = []
    for suspect in ranked:
        left = budget - len(oracle.seen)
        if left < params.per_suspect or (confirmed and left < budget / 2):
            break
        if _confirmed(oracle, lists[suspect][: params.per_suspect], suspect, params.min_purity):
            confirmed.append(suspect)
    for place, suspect in enumerate(confirmed):
        share = (budget - len(oracle.seen)) // (len(confirmed) - place)
        unseen = lists[suspect][~np.isin(lists[suspect], list(oracle.seen))]
        oracle.look(_shuffled(unseen, seed, "members", suspect), suspect, share)
    return confirmed


def _confirmed(oracle: _Oracle, ids: np.ndarray, suspect: str, min_purity: float) -> bool:
    """Whether enough of `ids` carry the artifact; once that is out of reach, the rest are not looked at."""
    needed = max(2, math.ceil(min_purity * len(ids) - 1e-9))  # 0.28 * 25 is 7, and a little more in floats
    found = 0
    for place, sample_id in enumerate(ids):
        if found + len(ids) - place < needed:
            return False
        found += sum(oracle.look([sample_id], suspect, 1))
    return found >= needed


def _table(oracle: _Oracle, samples: pd.DataFrame, classes: np.ndarray) -> pd.DataFrame:
    table = samples[samples["sample_id"].isin(list(oracle.seen))].copy()
    table["artifact"] = [oracle.seen[i][0] for i in table["sample_id"]]
    table["source"] = "oracle"
    table["suspect"] = [oracle.seen[i][1] for i in table["sample_id"]]
    table["confirmed"] = table["class"].isin(classes)
    return table.astype({"artifact": bool, "suspect": str}).reset_index(drop=True)[list(REVIEW_COLUMNS)]


def _from_tables(
    paths: Sequence[str], suspects: pd.DataFrame, members: pd.DataFrame, samples: pd.DataFrame
) -> pd.DataFrame:
    said = read_reviews(map(Path, paths), samples["sample_id"].to_numpy())
    table = samples.merge(said, on="sample_id")
    best = in_order(suspects, members).drop_duplicates("sample_id").set_index("sample_id")["name"]
    table["source"] = "csv"
    table["suspect"] = table["sample_id"].map(best).fillna(CONTROL)
    found = table.loc[table["artifact"] & (table["split"] == "train"), "class"].unique()
    table["confirmed"] = table["class"].isin(found)
    if len(found) == 0:
        log.warning(
            "None of the %d answers in %s says that a training sample carries the artifact: nothing is confirmed, and "
            "no concept vector is fitted. Fill in the column artifact (0 or 1).",
            *(len(table), ", ".join(Path(path).name for path in paths)),
        )
    return table[list(REVIEW_COLUMNS)]


def refine_labels(
    reviewed: pd.DataFrame,
    suspects: pd.DataFrame,
    members: pd.DataFrame,
    latents: LatentsReader,
    params: ReviewParams,
    truth: pd.DataFrame | None,
) -> pd.DataFrame:
    """Artifact labels of all train samples (and of the reviewed validation samples) from a few reviewed ones.

    The classes with a confirmed suspect are scored from the reviewed samples (see `refinement.Refiner`); the oracle
    spends what is left of the budget, in `params.rounds` rounds, on the samples that `params.strategy` proposes; the
    scores label the rest; with fewer than two labels of a side, what most of them say. Other classes are assumed clean.

    Args:
        reviewed: of `review_suspects`.
        suspects: the one list, of `suspicion.Lists`.
        members: their samples, of `suspicion.Lists`.
        latents: of the biased train split.
        params: see `ReviewParams`.
        truth: sample_id and artifact of biased train; None: no more looks.

    Returns:
        `LABEL_COLUMNS`, where source is reviewed, propagated or assumed. With no confirmed suspect nothing is
        propagated, and every label that nobody looked at is False.
    """
    train = sample_table(latents, ("train",))
    known = _answers(reviewed)
    scope = train["class"].isin(reviewed.loc[reviewed["confirmed"].astype(bool), "class"]).to_numpy()
    ids = train["sample_id"].to_numpy()
    artifact = np.zeros(len(ids), bool)
    if scope.any():
        answers = _answers(truth) if truth is not None and params.reviewer == "oracle" else {}
        left = params.budget - int((reviewed["split"] == "train").sum()) if answers else 0
        own = ids[scope]
        refiner = _refiner(own, suspects, members, latents, known, params)
        _look_further(refiner, own, answers, max(left, 0), params)
        known |= {int(own[row]): answer for row, answer in refiner.labels.items()}
        artifact[scope] = _predicted(refiner)
    seen = np.isin(ids, list(known))
    artifact[seen] = [known[int(i)] for i in ids[seen]]
    train["artifact"] = artifact
    train["source"] = np.where(seen, "reviewed", np.where(scope, "propagated", "assumed"))
    val = reviewed[reviewed["split"] == "val"].assign(source="reviewed")[list(LABEL_COLUMNS)]
    return pd.concat([train, val], ignore_index=True).astype({"artifact": bool})[list(LABEL_COLUMNS)]


def propose_samples(
    labels: pd.DataFrame,
    suspects: pd.DataFrame,
    members: pd.DataFrame,
    latents: LatentsReader,
    params: ReviewParams,
    count: int = 40,
) -> pd.DataFrame:
    """The next train samples for a person to look at, of the classes with a confirmed suspect.

    Args:
        labels: of `refine_labels`; the reviewed ones are fitted on and not proposed again.
        suspects: the one list, of `suspicion.Lists`.
        members: their samples, of `suspicion.Lists`.
        latents: of the biased train split.
        params: the strategy.
        count: samples proposed at most.

    Returns:
        `PROPOSAL_COLUMNS`, most worth a look first, with an empty `artifact` to fill in: a filled copy, listed
        behind the tables of the rounds before, is the next one for the reviewer "csv". Empty where nothing tells the
        samples apart yet.
    """
    train = sample_table(latents, ("train",))
    reviewed = labels[(labels["split"] == "train") & (labels["source"] == "reviewed")]
    assumed = labels.loc[labels["source"] == "assumed", "class"]
    scope = np.flatnonzero(~train["class"].isin(assumed))
    known = _answers(reviewed)
    if not any(known.values()):
        return pd.DataFrame(columns=list(PROPOSAL_COLUMNS))
    refiner = _refiner(train["sample_id"].to_numpy()[scope], suspects, members, latents, known, params)
    scorer = refiner.scorer()
    if scorer is None:
        return pd.DataFrame(columns=list(PROPOSAL_COLUMNS))
    scores = scorer(refiner.features)
    rows = refiner.propose(scores, count, params.strategy)
    table = train.iloc[scope[rows]].assign(score=scores[rows], artifact="")
    return table.reset_index(drop=True)[list(PROPOSAL_COLUMNS)]


def _refiner(
    ids: np.ndarray,
    suspects: pd.DataFrame,
    members: pd.DataFrame,
    latents: LatentsReader,
    known: dict[int, bool],
    params: ReviewParams,
) -> Refiner:
    """Of the samples `ids`, which come in the order of the latents, with those labels that are known."""
    rows, _ = rows_of(latents.sample_ids("train"), ids)
    features = {
        layer: whitened(latents.activations("train", layer, "max")[rows])
        for layer, whitened in whitenings(latents).items()
    }
    labels = {row: known[int(i)] for row, i in enumerate(ids) if int(i) in known}
    return Refiner(features, labels, suspect_rows(suspects, members, ids), params.min_purity)


def _predicted(refiner: Refiner) -> np.ndarray:
    """Which samples carry the artifact by their scores; where fewer than two labels differ, what most of them say."""
    labels = np.array(list(refiner.labels.values()), bool)
    scorer = refiner.scorer() if min(labels.sum(), (~labels).sum()) > 1 else None
    return scorer(refiner.features) > 0 if scorer else np.full(refiner.size, labels.mean() >= 0.5)


def _look_further(refiner: Refiner, ids: np.ndarray, answers: dict[int, bool], left: int, params: ReviewParams) -> None:
    """Look at `left` of the samples, in rounds, the ones worth most first."""
    for share in np.diff(np.linspace(0, left, params.rounds + 1).astype(int)).tolist():
        if share and (scorer := refiner.scorer()):
            rows = refiner.propose(scorer(refiner.features), share, params.strategy)
            refiner.labels.update({int(row): answers[int(ids[row])] for row in rows})
