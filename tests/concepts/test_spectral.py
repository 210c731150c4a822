from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from tests.concepts.conftest import FakeLatents
from tests.reference import concepts as naive

from xai_robustness.concepts.embedding import two_dimensional
from xai_robustness.concepts.spectral import (
    MEMBER_COLUMNS,
    SUSPECT_COLUMNS,
    Embedding,
    RevealParams,
    class_views,
    embedding_table,
    find_suspects,
    laid_out,
)
from xai_robustness.concepts.suspect_evaluation import (
    EVALUATION_COLUMNS,
    Z_95,
    evaluate_suspects,
    is_hit,
    wilson_interval,
)
from xai_robustness.concepts.suspicion import Lists, rank_all
from xai_robustness.metrics.ranking import auroc
from xai_robustness.types import InputError

PARAMS = RevealParams(n_neighbors=15, n_clusters=(2, 3), min_size=8, n_null=1)


def listed(suspects, members, latents):
    found = rank_all(suspects, members, latents, PARAMS.suspicion, PARAMS.min_size, 0)
    return found.suspects, found.members


def test_the_artifact_cluster_is_the_first_suspect(latents):
    suspects, members, embeddings = find_suspects(latents, PARAMS, seed=0)
    assert list(suspects.columns) == list(SUSPECT_COLUMNS) and list(members.columns) == list(MEMBER_COLUMNS)
    first = suspects.iloc[0]
    assert (first["class"], first["view"]) == (0, "late") and first["score"] > 1.5
    result = evaluate_suspects(*listed(suspects, members, latents), latents.truth("train")).set_index("suspect")
    result = result.loc["cluster 0"]
    assert result["precision"] > 0.85 and result["recall"] > 0.85
    embedding = embeddings["class_0/late"]
    assert len(embedding.embedding) == 80
    assert set(members[members["suspect"] == 0]["sample_id"]) <= set(embedding.sample_ids)


def test_the_first_view_of_a_class_is_laid_out_as_asked_and_the_others_by_their_eigenvectors(tmp_path):
    rng = np.random.default_rng(0)
    views = [(0, "late", 20, 6), (1, "input", 10, 4), (0, "early", 20, 6)]
    made = {
        f"class_{c}/{view}": Embedding(c, view, np.arange(n), np.zeros(e), rng.normal(size=(n, e)))
        for c, view, n, e in views
    }
    embedding_table(made).to_csv(tmp_path / "table.csv", index=False)
    points = laid_out(pd.read_csv(tmp_path / "table.csv"), "tsne", seed=0)
    assert list(points.columns) == ["class", "view", "sample_id", "x", "y"]
    for c, view, n, _ in views:
        own = points[(points["class"] == c) & (points["view"] == view)]
        method = "eigenvectors" if view == "early" else "tsne"
        expected = two_dimensional(made[f"class_{c}/{view}"].embedding, method, seed=0)
        np.testing.assert_array_equal(own[["x", "y"]].to_numpy(), expected)
        np.testing.assert_array_equal(own["sample_id"], np.arange(n))
    assert list(laid_out(embedding_table({}), "tsne", seed=0).columns) == list(points.columns)


def test_members_are_sorted_by_how_typical_they_are_and_sizes_agree(latents):
    suspects, members, _ = find_suspects(latents, PARAMS, seed=0)
    for suspect, group in members.groupby("suspect"):
        assert group["outlier_score"].is_monotonic_decreasing and group["sample_id"].is_unique
        assert len(group) == suspects.set_index("suspect").loc[suspect, "size"] >= PARAMS.min_size
    assert suspects["score"].is_monotonic_decreasing and list(suspects["rank"]) == list(range(1, len(suspects) + 1))


def test_without_an_artifact_no_score_stands_out(clean_latents):
    suspects, _, _ = find_suspects(clean_latents, PARAMS, seed=0)
    assert suspects["score"].max() < 1.4


def test_the_search_is_deterministic_and_does_not_see_other_splits(latents):
    first, second = (find_suspects(latents, PARAMS, seed=0)[1] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert set(first["sample_id"]) <= set(latents.sample_ids("train"))


def test_suspects_overlap_less_than_the_limit_and_views_can_be_chosen(latents):
    suspects, members, _ = find_suspects(
        latents, PARAMS.model_copy(update={"n_null": 1, "views": ("latent",), "layers": ("late",)}), 0
    )
    assert set(suspects["view"]) == {"late"}
    sets = [set(group["sample_id"]) for _, group in members.groupby("suspect")]
    for i, a in enumerate(sets):
        assert all(len(a & b) / len(a | b) < PARAMS.max_overlap for b in sets[:i])


def test_large_classes_are_sampled_and_small_ones_left_out(latents):
    params = PARAMS.model_copy(update={"max_samples": 40})
    _, _, embeddings = find_suspects(latents, params, seed=0)
    assert all(len(e.sample_ids) == 40 for e in embeddings.values())
    suspects, members, embeddings = find_suspects(latents, PARAMS.model_copy(update={"min_size": 50}), seed=0)
    assert suspects.empty and members.empty and not embeddings
    assert list(suspects.columns) == list(SUSPECT_COLUMNS) and list(members.columns) == list(MEMBER_COLUMNS)
    assert evaluate_suspects(*listed(suspects, members, latents), latents.truth("train")).empty


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 7), (9, 10), (50, 50)])
def test_wilson_interval_solves_its_quadratic(hits, n):
    np.testing.assert_allclose(wilson_interval(hits, n), naive.wilson(hits, n), atol=1e-7)
    assert pytest.approx(NormalDist().inv_cdf(0.975)) == Z_95


def test_wilson_interval_of_nothing_is_undefined():
    assert np.isnan(wilson_interval(0, 0)).all()


def test_evaluation_counts_by_hand():
    suspects = pd.DataFrame({"name": ["a", "b", "c"], "kind": ["cluster", "neurons", "sample"], "class": [0, 1, 0]})
    members = pd.DataFrame({"name": ["a", "a", "b", "c"], "sample_id": [1, 2, 5, 1]})
    truth = pd.DataFrame(
        {"sample_id": [1, 2, 3, 4, 5], "class": [0, 0, 0, 0, 1], "artifact": [True, False, True, True, False]}
    )
    table = evaluate_suspects(suspects, members, truth)
    assert list(table.columns) == list(EVALUATION_COLUMNS) and table["suspect"].tolist() == ["a", "b"]
    assert (table.loc[0, "precision"], table.loc[0, "recall"], table.loc[0, "f1"]) == (0.5, pytest.approx(1 / 3), 0.4)
    assert table.loc[1, "precision"] == 0 and np.isnan(table.loc[1, "recall"]) and np.isnan(table.loc[1, "f1"])


def test_evaluation_counts_train_rows_alone_and_works_without_classes():
    suspects = pd.DataFrame({"name": ["a"], "kind": ["cluster"], "class": [0]})
    members = pd.DataFrame({"name": ["a", "a"], "sample_id": [1, 2]})
    truth = pd.DataFrame(
        {"sample_id": [1, 2, 3, 4], "split": ["train"] * 3 + ["val"], "artifact": [True, False, True, True]}
    )
    table = evaluate_suspects(suspects, members, truth)
    assert (table.loc[0, "recall"], table.loc[0, "n_artifact"]) == (0.5, 2)


def test_a_suspect_is_judged_by_what_it_names(latents):
    """The artifact's neuron, and samples without the artifact, under one name."""
    truth, own = latents.truth("train"), latents.targets("train") == 0
    artifact, ids = truth["artifact"].to_numpy(bool), latents.sample_ids("train")
    late = latents.activations("train", "late", "max")[own]
    aucs = [abs(auroc(late[:, k], artifact[own]) - 0.5) for k in range(late.shape[1])]
    neurons = pd.DataFrame({"name": "a", "class": 0, "layer": "late", "neuron": [int(np.argmax(aucs))], "sign": 1})
    assert max(aucs) > 0.4
    other = neurons.assign(neuron=int(np.argmin(aucs)))
    for named, some, hits in (
        (own & ~artifact, neurons, [False, True, True, False]),
        (own & artifact, other, [True, False, True, False]),
    ):
        listed = Lists(pd.DataFrame(), pd.DataFrame({"name": "a", "sample_id": ids[named][:20]}), some)
        kinds = ("cluster", "neurons", "joined", "sample")
        named_as = [pd.Series({"kind": k, "name": "a", "class": 0}) for k in kinds]
        found = [is_hit(one, listed, latents, artifact, {0: np.flatnonzero(own)}) for one in named_as]
        assert found == hits


def test_a_cluster_is_judged_over_the_samples_that_were_searched():
    """Of a class of 400 every second was: the clean half of these splits them well, and says nothing of the others."""
    latents = FakeLatents(rate=0.6, sizes={"train": 1200, "val": 9, "test": 9})
    artifact, rows = latents.has_artifact("train"), np.flatnonzero(latents.labels("train") == 0)[::2]
    clean = latents.sample_ids("train")[rows[~artifact[rows]]]
    listed = Lists(pd.DataFrame(), pd.DataFrame({"name": "a", "sample_id": clean}), pd.DataFrame())
    suspect = pd.Series({"kind": "cluster", "name": "a", "class": 0})
    every = np.flatnonzero(latents.labels("train") == 0)
    assert is_hit(suspect, listed, latents, artifact, {0: rows})
    assert not is_hit(suspect, listed, latents, artifact, {0: every})


def test_of_the_store_only_the_rows_that_are_searched_are_read():
    class Rows(np.ndarray):
        def __getitem__(self, rows):
            read.append(len(np.atleast_1d(rows)))
            return np.asarray(self)[rows]

    class Stored(FakeLatents):
        def stored(self, split, key):
            return super().stored(split, key).view(Rows)

    read: list[int] = []
    views = list(class_views(Stored(), RevealParams(max_samples=40), 0))
    assert len(views) == 9 and read == [40] * 9


def test_parameters_are_checked():
    with pytest.raises((InputError, ValidationError), match="kmeans"):
        RevealParams(clusterings=("kmaens",))
    with pytest.raises(ValidationError):
        RevealParams(views=("output",))
