import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from xai_robustness.concepts.prototypes import (
    CONCEPT_COLUMNS,
    PROTOTYPE_COLUMNS,
    concept_table,
    fit_prototypes,
    prototype_concepts,
    prototype_table,
)
from xai_robustness.randomness import seed_for
from xai_robustness.types import InputError


def strategies(sizes=(120, 60, 20), k=5, seed=0):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(group), k)) * 0.05
    x[np.arange(len(group)), group] += 1.0
    return x, group


def test_prototypes_are_the_strategies_with_their_shares_and_typical_samples():
    x, group = strategies()
    found = fit_prototypes(x, seed=0, n_prototypes=3)
    order = np.argsort(-found.coverage)
    np.testing.assert_allclose(found.coverage[order], [0.6, 0.3, 0.1], atol=0.01)
    for place, prototype in enumerate(order):
        np.testing.assert_allclose(found.means[prototype], x[group == place].mean(0), atol=0.02)
        assert (group[found.nearest[prototype]] == place).all()
        distance = np.linalg.norm(x - found.means[prototype], axis=1)
        assert found.nearest[prototype].tolist() == np.argsort(distance)[:4].tolist()


def test_the_mixture_is_scikit_learns_with_the_published_settings():
    x, _ = strategies()
    found = fit_prototypes(x, seed=3, n_prototypes=3)
    mixture = GaussianMixture(3, max_iter=10, random_state=seed_for(3, "prototypes") % 2**32).fit(x / x.std())
    np.testing.assert_allclose(found.likelihood, mixture.score_samples(x / x.std()), rtol=1e-6)
    responsible = mixture.predict_proba(x / x.std())
    np.testing.assert_allclose(found.means, mixture.means_ * x.std(), atol=1e-3)
    np.testing.assert_allclose(found.means, (responsible.T @ x) / responsible.sum(0)[:, None], atol=1e-9)


def test_wide_features_are_fitted_in_principal_components_and_a_strange_sample_stands_alone():
    x, group = strategies(k=90)
    x[0] = 0
    x[0, 50] = 4.0
    found = fit_prototypes(x, seed=0, n_prototypes=3)
    strange = int(found.means[:, 50].argmax())
    assert found.means.shape == (3, 90) and found.coverage[strange] == 1 / 200 and found.nearest[strange, 0] == 0


def test_concepts_grow_until_there_are_more_than_shown():
    means = np.array([[9.0, 8.0, 1.0, 0.5, 0.1], [9.0, 7.0, 0.2, 2.0, 0.3]])
    assert prototype_concepts(means, count=3).tolist() == [0, 1, 3]
    assert prototype_concepts(means, count=10).tolist() == [0, 1, 3, 2, 4]


def test_the_table_names_the_samples_and_too_few_are_one_sentence():
    x, _ = strategies()
    found = fit_prototypes(x, seed=0, n_prototypes=3)
    table = prototype_table(found, np.arange(200) + 1000, 2, "layer4")
    assert list(table.columns) == list(PROTOTYPE_COLUMNS) and len(table) == 12
    assert set(table["sample_id"]) == set((found.nearest + 1000).ravel().tolist())
    with pytest.raises(InputError, match="at least 8 samples"):
        fit_prototypes(x[:5], seed=0)


def test_the_concept_matrix_is_mean_relevance_in_percent_with_the_strongest_sample():
    x, group = strategies()
    found = fit_prototypes(x, seed=0, n_prototypes=3)
    table = concept_table(found, x, np.arange(len(x)) + 100, 2, "late")
    assert list(table.columns) == list(CONCEPT_COLUMNS) and len(table) == 3 * len(found.concepts)
    for row in table.itertuples():
        assert row.percent == pytest.approx(100 * found.means[row.prototype, row.neuron])
        assert row.sample_id == 100 + x[:, row.neuron].argmax()
