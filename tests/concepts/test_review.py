import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from xai_robustness.concepts.answers import read_review
from xai_robustness.concepts.refinement import best_threshold
from xai_robustness.concepts.review import (
    CONTROL,
    LABEL_COLUMNS,
    REVIEW_COLUMNS,
    ReviewParams,
    propose_samples,
    refine_labels,
    review_suspects,
)
from xai_robustness.concepts.samples import sample_table
from xai_robustness.concepts.spectral import RevealParams, find_suspects
from xai_robustness.concepts.suspicion import rank_all
from xai_robustness.types import InputError

FOUND: dict[float, tuple] = {}
REVEAL = RevealParams(n_neighbors=15, n_clusters=(2, 3), min_size=8)
PARAMS = ReviewParams(budget=60, val_budget=20, per_suspect=5)


def suspects_of(latents):
    """The list and its members, searched once for each rate of the invented latents."""
    if latents.rate not in FOUND:
        FOUND[latents.rate] = listed(latents, REVEAL)
    return FOUND[latents.rate]


def listed(latents, params):
    found = rank_all(*find_suspects(latents, params, seed=0)[:2], latents, params.suspicion, params.min_size, 0)
    return found.suspects, found.members


def review(latents, params=PARAMS, truth=None):
    suspects, members = suspects_of(latents)
    samples = sample_table(latents, ("train", "val"))
    truth = latents.truth("train", "val") if truth is None and params.reviewer == "oracle" else truth
    return suspects, members, review_suspects(suspects, members, samples, truth, params, seed=0)


def test_the_oracle_keeps_its_budgets_and_tells_the_truth(latents):
    suspects, members, reviewed = review(latents)
    first = members.loc[members["name"] == suspects["name"].iloc[0], "sample_id"]
    assert list(reviewed.columns) == list(REVIEW_COLUMNS) and reviewed["sample_id"].is_unique
    train, val = (reviewed[reviewed["split"] == split] for split in ("train", "val"))
    assert len(train) <= 45 and len(val) == 20
    truth = latents.truth("train", "val").set_index("sample_id")["artifact"]
    assert (reviewed["artifact"].to_numpy() == truth[reviewed["sample_id"]].to_numpy()).all()
    control = train[train["suspect"] == CONTROL]
    assert (control["class"] == 0).all() and len(control) == 23
    assert not control["sample_id"].isin(first).any()
    assert (val["class"] == 0).all() and val["artifact"].nunique() == 2


def test_the_most_typical_members_are_looked_at(latents):
    suspects, members, reviewed = review(latents)
    first = members[members["name"] == suspects["name"].iloc[0]]["sample_id"][:5]
    assert first.isin(reviewed["sample_id"]).all() and reviewed.set_index("sample_id").loc[first, "artifact"].all()


def test_nothing_is_confirmed_without_an_artifact_and_everything_stays_clean(clean_latents):
    _, _, reviewed = review(clean_latents)
    assert not reviewed["confirmed"].any() and not reviewed["artifact"].any()
    assert (reviewed["split"] == "train").all() and 0 < len(reviewed) <= 45
    labels = refine_labels(reviewed, *suspects_of(clean_latents), clean_latents, PARAMS, clean_latents.truth("train"))
    assert list(labels.columns) == list(LABEL_COLUMNS) and len(labels) == 240
    assert not labels["artifact"].any() and set(labels["source"]) == {"reviewed", "assumed"}


def test_a_budget_of_zero_confirms_nothing(latents):
    _, _, reviewed = review(latents, ReviewParams(budget=0, val_budget=10))
    assert reviewed.empty and list(reviewed.columns) == list(REVIEW_COLUMNS)
    labels = refine_labels(reviewed, *suspects_of(latents), latents, PARAMS, latents.truth("train"))
    assert not labels["artifact"].any() and len(labels) == 240


def test_no_suspects_give_an_empty_review(latents):
    suspects, members = listed(latents, REVEAL.model_copy(update={"min_size": 50}))
    reviewed = review_suspects(
        suspects, members, sample_table(latents, ("train", "val")), latents.truth("train", "val"), PARAMS, 0
    )
    assert reviewed.empty and list(reviewed.columns) == list(REVIEW_COLUMNS)


def named(names, classes, kind="cluster"):
    return pd.DataFrame({"place": range(1, len(names) + 1), "kind": kind, "name": names, "class": classes})


def test_single_samples_are_not_judged():
    suspects = pd.concat([named(["sample 3"], [0], "sample"), named(["a"], [0]).assign(place=2)])
    members = pd.DataFrame({"name": ["sample 3"] + ["a"] * 4, "sample_id": [3, 0, 1, 2, 3]})
    samples = pd.DataFrame({"sample_id": range(8), "split": "train", "class": 0})
    truth = pd.DataFrame({"sample_id": range(8), "artifact": [True] * 4 + [False] * 4})
    reviewed = review_suspects(suspects, members, samples, truth, PARAMS, seed=0)
    assert set(reviewed["suspect"]) == {"a", CONTROL}


def test_purity_decides_what_is_confirmed():
    suspects = named(["a", "b"], [0, 1])
    members = pd.DataFrame({"name": ["a"] * 4 + ["b"] * 4, "sample_id": range(8)})
    samples = pd.DataFrame({"sample_id": range(8), "split": "train", "class": [0] * 4 + [1] * 4})
    truth = pd.DataFrame({"sample_id": range(8), "artifact": [True, False, False, False, True, True, True, False]})
    params = ReviewParams(budget=64, val_budget=0, per_suspect=4, min_purity=0.75)
    reviewed = review_suspects(suspects, members, samples, truth, params, seed=0)
    assert reviewed.groupby("class")["confirmed"].first().to_dict() == {0: False, 1: True}


def test_purity_is_a_share_of_whole_samples():
    """0.28 of 25 are 7, and 7.000000000000001 in floats."""
    members = pd.DataFrame({"name": "a", "sample_id": range(25)})
    samples = pd.DataFrame({"sample_id": range(25), "split": "train", "class": 0})
    truth = pd.DataFrame({"sample_id": range(25), "artifact": np.arange(25) < 7})
    params = ReviewParams(budget=64, val_budget=0, per_suspect=25, min_purity=0.28)
    assert review_suspects(named(["a"], [0]), members, samples, truth, params, seed=0)["confirmed"].all()


def test_looking_stops_where_a_suspect_cannot_be_confirmed_any_more():
    """Ten clean suspects before the true one: six looks each instead of ten leave enough for it."""
    names = [f"suspect {i:02}" for i in range(11)]
    suspects = named(names, [0] * 11)
    members = pd.DataFrame({"name": np.repeat(names, 10), "sample_id": range(110)})
    samples = pd.DataFrame({"sample_id": range(110), "split": "train", "class": 0})
    truth = pd.DataFrame({"sample_id": range(110), "artifact": [False] * 100 + [True] * 10})
    params = ReviewParams(budget=200, val_budget=0, per_suspect=10, min_purity=0.5)
    reviewed = review_suspects(suspects, members, samples, truth, params, seed=0)
    looked_at = reviewed[reviewed["suspect"] != CONTROL].groupby("suspect").size()
    assert looked_at.to_dict() == dict.fromkeys(names[:10], 6) | {names[10]: 10}
    assert reviewed["confirmed"].all()


def test_refinement_labels_the_class_and_spends_no_more_than_the_budget(latents):
    _, _, reviewed = review(latents)
    labels = refine_labels(reviewed, *suspects_of(latents), latents, PARAMS, latents.truth("train"))
    train = labels[labels["split"] == "train"]
    assert len(train) == 240 and train["sample_id"].is_unique
    assert (train["source"] == "reviewed").sum() <= PARAMS.budget
    assert (train["source"] == "reviewed").sum() > (reviewed["split"] == "train").sum()
    truth = latents.truth("train").set_index("sample_id").loc[train["sample_id"], "artifact"].to_numpy()
    assert (train["artifact"].to_numpy() == truth).mean() > 0.98
    assert (train.loc[train["class"] != 0, "source"].isin(["assumed", "reviewed"])).all()
    assert (train.loc[train["class"] == 0, "source"] != "assumed").all()
    assert len(labels[labels["split"] == "val"]) == 20


def test_refinement_does_not_read_the_truth_of_samples_it_did_not_look_at(latents):
    _, _, reviewed = review(latents)
    labels = refine_labels(reviewed, *suspects_of(latents), latents, PARAMS, None)
    assert (labels["source"] == "reviewed").sum() == len(reviewed)
    wrong = latents.truth("train")
    unseen = ~wrong["sample_id"].isin(reviewed["sample_id"])
    wrong.loc[unseen, "artifact"] = ~wrong.loc[unseen, "artifact"]
    spent = PARAMS.model_copy(update={"budget": int((reviewed["split"] == "train").sum())})
    pd.testing.assert_frame_equal(refine_labels(reviewed, *suspects_of(latents), latents, spent, wrong), labels)


def test_a_class_that_carries_it_throughout_is_labelled_throughout(throughout):
    samples = np.arange(240)
    reviewed = pd.DataFrame({"sample_id": samples[:30:3], "split": "train", "class": 0, "artifact": True})
    reviewed = reviewed.assign(source="oracle", suspect="a", confirmed=True)
    labels = refine_labels(reviewed, *suspects_of(throughout), throughout, ReviewParams(budget=10), None)
    assert labels.groupby("class")["artifact"].mean().to_dict() == {0: 1.0, 1: 0.0, 2: 0.0}


def test_a_persons_table_is_the_review(latents, tmp_path):
    path = tmp_path / "review.csv"
    truth = latents.truth("train", "val")
    truth[truth["class"] == 0].iloc[::2][["sample_id", "artifact"]].astype(int).to_csv(path, index=False)
    params = ReviewParams(reviewer="csv", csv=str(path))
    _, _, reviewed = review(latents, params)
    assert set(reviewed["source"]) == {"csv"} and reviewed["confirmed"].all() and len(reviewed) == 55
    suspects, members = suspects_of(latents)
    place = members["name"].map(suspects.set_index("name")["place"])
    best = members.loc[place.sort_values(kind="stable").index].drop_duplicates("sample_id")
    best = best.set_index("sample_id")["name"].reindex(reviewed["sample_id"]).fillna(CONTROL)
    np.testing.assert_array_equal(reviewed["suspect"], best)
    labels = refine_labels(reviewed, *suspects_of(latents), latents, params, None)
    known = latents.truth("train")["artifact"].to_numpy()
    assert (labels[labels["split"] == "train"]["artifact"].to_numpy() == known).mean() > 0.98


def test_a_second_round_adds_to_the_first(latents, tmp_path):
    """The proposals of round one, filled in, are round two; what round one said counts on and is not proposed again."""
    truth = latents.truth("train").set_index("sample_id")["artifact"].astype(int)
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    ids = truth.index[::9][:20]  # class 0
    truth[ids].reset_index().to_csv(first, index=False)

    def labels_from(*paths):
        params = ReviewParams(reviewer="csv", csv=[str(path) for path in paths])
        listed, members, reviewed = review(latents, params)
        labels = refine_labels(reviewed, *suspects_of(latents), latents, params, None)
        seen = labels.loc[labels["source"] == "reviewed"].set_index("sample_id")["artifact"]
        return seen, propose_samples(labels, listed, members, latents, params, count=10)

    _, proposed = labels_from(first)
    filled = proposed.assign(artifact=truth[proposed["sample_id"]].to_list())
    filled.to_csv(second, index=False)
    seen, proposed_next = labels_from(first, second)
    assert set(seen.index) == {*ids, *proposed["sample_id"]} and len(seen) == 30
    assert (seen == truth[seen.index].astype(bool)).all()
    assert len(proposed_next) == 10 and not proposed_next["sample_id"].isin(seen.index).any()


def test_the_later_answer_to_a_sample_wins_and_an_empty_one_is_none(latents, tmp_path):
    texts = {"a.csv": "0,1\n3,1\n6,0\n", "b.csv": "3,0\n6,\n9,1\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text("sample_id,artifact\n" + text)
    said = {}
    for order in (("a.csv", "b.csv"), ("b.csv", "a.csv")):
        params = ReviewParams(reviewer="csv", csv=[str(tmp_path / name) for name in order])
        said[order[0]] = review(latents, params)[2].set_index("sample_id")["artifact"].to_dict()
    assert said["a.csv"] == {0: True, 3: False, 6: False, 9: True}
    assert said["b.csv"] == {0: True, 3: True, 6: False, 9: True}


def test_unknown_ids_are_counted(latents, tmp_path):
    path = tmp_path / "review.csv"
    path.write_text("sample_id,artifact\n0,1\n77777,0\n88888,1\n")
    (tmp_path / "good.csv").write_text("sample_id,artifact\n0,1\n")
    with pytest.raises(InputError, match="2 of 3 sample ids in review.csv are not in train or val"):
        review(latents, ReviewParams(reviewer="csv", csv=[str(tmp_path / "good.csv"), str(path)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,artifact\n1,1\n", "lacks \\['sample_id'\\]"),
        ("sample_id,artifact\n1,1\n1,0\n", "Got 1 other rows \\(first in line 3\\)"),
        ("sample_id,artifact\n1,maybe\n", "Got 1 other rows"),
        ("sample_id,artifact\n1,\n2,\n3,2\n", "Got 1 other rows \\(first in line 4\\)"),
        ("sample_id,artifact\n1.5,1\nx,0\n", "Got 2 other rows"),
        ("sample_id,artifact\n7,1\n1e30,1\n-1e30,0\ninf,1\n", "Got 3 other rows \\(first in line 3\\)"),
        ("sample_id,artifact\n99999999999999999999,1\n", "Got 1 other rows"),
        ("", "r.csv must begin with a line of column names. It is empty"),
    ],
)
def test_malformed_tables_are_one_sentence(tmp_path, text, message):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_review(tmp_path / "r.csv")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match="No review table at .*r.csv"):
        read_review(tmp_path / "r.csv")


def test_true_and_false_are_understood(tmp_path):
    (tmp_path / "r.csv").write_text("sample_id,artifact,note\n4,True,x\n5, false,\n6,1,\n")
    assert read_review(tmp_path / "r.csv")["artifact"].tolist() == [True, False, True]


def test_the_oracle_needs_the_truth_and_a_person_a_table(latents):
    suspects, members = suspects_of(latents)
    with pytest.raises(InputError, match="Got None instead"):
        review_suspects(suspects, members, sample_table(latents, ("train", "val")), None, PARAMS, 0)
    for bad in ({"reviewer": "csv"}, {"reviewer": "csv", "csv": []}, {"csv": "x.csv"}, {"min_purity": 0}):
        with pytest.raises(ValidationError):
            ReviewParams(**bad)


def test_best_threshold_lies_between_separable_groups():
    scores, artifact = np.array([-2.0, -1, 3, 4]), np.array([False, False, True, True])
    assert best_threshold(scores, artifact) == 1
    mixed, weight = np.array([0.0, 1, 2, 3]), np.array([1.0, 5, 1, 1])
    carry = np.array([False, True, False, True])
    assert best_threshold(mixed, carry, weight) == 0.5 and best_threshold(mixed, carry, weight[::-1]) == 2.5
    assert best_threshold(-scores, artifact) in (-5, 3)
