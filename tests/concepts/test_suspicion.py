import numpy as np
import pytest

from xai_robustness.concepts.significance import benjamini_hochberg
from xai_robustness.concepts.spectral import RevealParams, find_suspects
from xai_robustness.concepts.suspicion import (
    LIST_COLUMNS,
    LIST_MEMBER_COLUMNS,
    NEURON_COLUMNS,
    SuspicionParams,
    is_cluster_hit,
    is_neuron_hit,
    pooled_activation,
    rank_all,
)

REVEAL = RevealParams(n_neighbors=15, n_clusters=(2, 3), min_size=8, n_null=4, views=("latent",))
PARAMS = SuspicionParams(n_null=4)


@pytest.fixture(scope="module")
def listed():
    from tests.concepts.conftest import FakeLatents

    latents = FakeLatents()
    suspects, members, _ = find_suspects(latents, REVEAL, seed=0)
    return latents, suspects, members, rank_all(suspects, members, latents, PARAMS, 8, seed=0)


def test_one_list_holds_all_kinds_on_one_scale(listed):
    _, suspects, _, found = listed
    table = found.suspects
    assert list(table.columns) == list(LIST_COLUMNS) and set(table["kind"]) == {"cluster", "neurons", "sample"}
    order = list(zip(~table["flagged"], table["kind"] == "sample", -table["ratio"]))
    assert order == sorted(order) and (table["place"] == np.arange(1, len(table) + 1)).all()
    samples = table[table["kind"] == "sample"]
    largest = samples.groupby("class")["statistic"].max()
    for c, own in samples.groupby("class"):
        np.testing.assert_allclose(own["reference"], np.median(largest.drop(c)))
    np.testing.assert_allclose(table["ratio"], table["statistic"] / table["reference"])
    assert (table["q_value"] >= table["p_value"] - 1e-12).all() and table["p_value"].between(0, 1).all()
    np.testing.assert_allclose(10.0 ** -table["score"], table["q_value"])
    assert (table["flagged"] == ((table["q_value"] < 0.05) & (table["ratio"] >= 1.3))).all()
    clusters = table[table["kind"] == "cluster"].set_index("name")["p_value"]
    for suspect, p in zip(suspects["suspect"], suspects["p_value"]):
        assert clusters[f"cluster {suspect}"] == p
    assert list(found.members.columns) == list(LIST_MEMBER_COLUMNS)
    assert set(found.members["name"]) == set(table["name"])


def test_the_artifact_leads_the_list_and_its_neurons_are_named(listed):
    latents, _, _, found = listed
    first = found.suspects.iloc[0]
    assert (first["class"], first["view"]) == (0, "late") and first["flagged"]
    ids, own = latents.sample_ids("train"), latents.labels("train") == 0
    artifact = latents.has_artifact("train")[own]
    name = found.suspects[(found.suspects["kind"] == "neurons") & (found.suspects["class"] == 0)].iloc[0]["name"]
    assert list(found.neurons.columns) == list(NEURON_COLUMNS)
    neurons = found.neurons[found.neurons["name"] == name]
    assert set(neurons["neuron"]) == set(range(8, 12)) and set(neurons["layer"]) == {"late"}
    activation = pooled_activation({"late": latents.activations("train", "late", "max")[own]}, found.neurons, name)
    assert is_neuron_hit(activation, artifact) and is_neuron_hit(-activation, artifact)
    members = found.members.loc[found.members["name"] == name, "sample_id"]
    inside = np.isin(ids[own], members)
    assert is_cluster_hit(inside, artifact) and is_cluster_hit(~inside, artifact)


def test_clusters_alone_are_listed_by_default(listed):
    latents, suspects, members, _ = listed
    found = rank_all(suspects, members, latents, SuspicionParams(), 8, seed=0)
    assert set(found.suspects["kind"]) == {"cluster"} and found.neurons.empty


def test_nothing_found_is_an_empty_list(listed):
    latents, suspects, members, _ = listed
    found = rank_all(suspects.iloc[:0], members.iloc[:0], latents, SuspicionParams(), 8, seed=0)
    assert found.suspects.empty and list(found.suspects.columns) == list(LIST_COLUMNS) and found.members.empty


def test_without_an_artifact_no_cluster_is_flagged():
    from tests.concepts.conftest import FakeLatents

    latents = FakeLatents(rate=0.0)
    suspects, members, _ = find_suspects(latents, REVEAL, seed=0)
    table = rank_all(suspects, members, latents, SuspicionParams(), 8, seed=0).suspects
    assert not table["flagged"].any()


def test_structure_that_every_class_has_is_not_flagged():
    """Two looks in each class: far beyond a Gaussian null, but as far in every class."""
    from tests.concepts.conftest import FakeLatents

    class Natural(FakeLatents):
        def relevances(self, split, layer, pool):
            x = self._rng(split, layer, "relevances").normal(size=(self.sizes[split], 24)) + 1
            x[np.random.default_rng(1).random(self.sizes[split]) < 0.3, 8:12] += 6.0
            return x

    latents = Natural(rate=0.0)
    suspects, members, _ = find_suspects(latents, REVEAL, seed=0)
    table = rank_all(suspects, members, latents, SuspicionParams(), 8, seed=0).suspects
    assert (table["q_value"] < 0.05).any() and not table["flagged"].any()
    one = rank_all(suspects.assign(reference=np.nan), members, latents, SuspicionParams(), 8, seed=0).suspects
    assert one["flagged"].any() and (one["reference"] < table["reference"].min()).all()


def test_views_that_left_nothing_in_the_list_count_as_tests(listed):
    latents, suspects, members, _ = listed
    assert (suspects["families"] == 3 * 2).all()  # classes times layers
    kept = suspects.sort_values("p_value").iloc[:2]  # of two families at most
    p, families = np.sort(kept["p_value"]), len(kept[["class", "view"]].drop_duplicates())
    table = rank_all(kept, members, latents, SuspicionParams(), 8, seed=0).suspects
    tests = 2 + 6 - families
    expected = np.minimum.accumulate((p * tests / [1, 2])[::-1])[::-1]
    np.testing.assert_allclose(np.sort(table["q_value"]), np.minimum(expected, 1))


def test_sets_of_neurons_count_for_every_class_and_layer(listed):
    latents, suspects, members, found = listed
    table = found.suspects
    p = table["p_value"].to_numpy()
    pairs = {kind: len(own[["class", "view"]].drop_duplicates()) for kind, own in table.groupby("kind")}
    assert pairs["neurons"] < 6  # some have no set of neurons
    tests = len(table) + sum(6 - pairs[kind] for kind in ("cluster", "neurons"))
    np.testing.assert_allclose(table["q_value"], benjamini_hochberg(p, tests))
    assert (table["q_value"] > benjamini_hochberg(p)).any()


def test_a_single_sample_can_be_significant_at_few_null_sets():
    from tests.concepts.conftest import FakeLatents

    class Lone(FakeLatents):
        def relevances(self, split, layer, pool):
            x = super().relevances(split, layer, pool)
            x[7] = 0
            x[7, 3] = 1.0  # all relevance in one neuron: 20 standard deviations of a share
            return x

    latents = Lone(rate=0.0)
    suspects, members, _ = find_suspects(latents, REVEAL, seed=0)
    table = rank_all(suspects, members, latents, SuspicionParams(n_null=6), 8, seed=0).suspects
    samples = table[table["kind"] == "sample"].set_index("name")
    assert samples["q_value"].idxmin() == "sample 7" and samples.loc["sample 7", "q_value"] < 0.01
    assert samples.loc["sample 7", "flagged"] and (samples["p_value"].drop("sample 7") > 0.01).all()


def test_hits_follow_their_definition():
    artifact = np.arange(100) < 20
    half = np.zeros(100, bool)
    half[10:30] = True  # precision 0.5, base rate 0.2
    assert is_cluster_hit(half, artifact)
    half[30] = True
    assert not is_cluster_hit(half, artifact)
    frequent = np.arange(100) < 60
    assert not is_cluster_hit(np.arange(100) < 20, frequent)  # pure, but not twice the base rate
    assert is_cluster_hit(np.arange(100) < 55, frequent) and is_cluster_hit(np.arange(100) >= 55, frequent)
    for nothing in (np.zeros(100, bool), np.ones(100, bool)):
        assert not is_cluster_hit(half, nothing) and not is_neuron_hit(np.arange(100.0), nothing)
    assert not is_cluster_hit(np.zeros(100, bool), artifact)
    assert not is_neuron_hit(np.sin(np.arange(100.0)), artifact)
