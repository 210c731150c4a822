import json
import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from tests.reference import concepts as naive

from xai_robustness.concepts import labelled
from xai_robustness.concepts.cav import CavParams, Cavs, fit_cav, fit_kinds, load_cavs, save_cavs
from xai_robustness.concepts.directions import (
    CAV_KINDS,
    LASSO_STRENGTHS,
    PATTERNS,
    SHRINKAGES,
    STRENGTHS,
    lda_path,
    ridge_path,
)
from xai_robustness.concepts.labelled import Labelled, balanced_weights, stratified_folds
from xai_robustness.types import InputError

KINDS = ("signal", "mean", "median", "ridge", "lasso", "logistic", "svm", "lda")


def data(n: int = 80, k: int = 12, n_artifact: int = 20, seed: int = 0):
    rng = np.random.default_rng(seed)
    artifact = np.zeros(n, bool)
    artifact[rng.choice(n, n_artifact, replace=False)] = True
    x = rng.normal(size=(n, k)) * rng.uniform(0.5, 3, k) + rng.normal(size=k)
    x[artifact] += np.linspace(-1, 1.5, k)
    return x, artifact


def standardised(x):
    return (x - x.mean(0)) / np.sqrt(np.mean((x - x.mean(0)) ** 2))


@pytest.mark.parametrize("shape", [(80, 12), (30, 50)], ids=["tall", "wide"])
def test_ridge_path_equals_scikit_learn_and_the_normal_equations_for_every_strength(shape):
    x, artifact = data(*shape, n_artifact=7)
    coefficients, intercepts = ridge_path(Labelled(x, artifact).both(), STRENGTHS)
    inner, back = Labelled(x, artifact).in_span()
    for place in (0, 4, 9):  # one system, in the span of the samples, instead of a decomposition
        alone, offset = ridge_path(inner.both(), STRENGTHS[[place]])
        np.testing.assert_allclose(back(alone[0]), coefficients[place], rtol=1e-6, atol=1e-8)
        assert offset[0] == pytest.approx(intercepts[place], rel=1e-6)
    for strength, coefficient, intercept in zip(STRENGTHS, coefficients, intercepts):
        theirs = Ridge(strength, solver="svd").fit(x, np.where(artifact, 1, -1), balanced_weights(artifact))
        np.testing.assert_allclose(coefficient, theirs.coef_, rtol=1e-6, atol=1e-8)
        assert intercept == pytest.approx(theirs.intercept_, rel=1e-6, abs=1e-8)
        if strength >= 1e-2:
            naive_coefficient, naive_intercept = naive.balanced_ridge(x, artifact, strength)
            np.testing.assert_allclose(coefficient, naive_coefficient, rtol=1e-6, atol=1e-8)
            assert intercept == pytest.approx(naive_intercept, rel=1e-6, abs=1e-8)


def test_the_chosen_ridge_strength_has_the_best_cross_validated_average_precision():
    x, artifact = data()
    cav = fit_cav(x, artifact, "ridge", "late")
    standard = (x - x.mean(0)) / np.sqrt(np.mean((x - x.mean(0)) ** 2))
    means = []
    for strength in STRENGTHS:
        found = []
        for train, test in stratified_folds(artifact).split(x, artifact):
            model = Ridge(strength).fit(
                standard[train], np.where(artifact[train], 1, -1), balanced_weights(artifact[train])
            )
            found.append(average_precision_score(artifact[test], model.predict(standard[test])))
        means.append(np.mean(found))
    strength = STRENGTHS[int(np.argmax(means))]
    best = Ridge(strength).fit(standard, np.where(artifact, 1, -1), balanced_weights(artifact)).coef_
    assert cav.vector @ (best / np.linalg.norm(best)) == pytest.approx(1, abs=1e-6) and cav.strength == strength


def test_svm_is_the_balanced_linear_svm_with_the_best_average_precision():
    x, artifact = data()
    standard = (x - x.mean(0)) / np.sqrt(np.mean((x - x.mean(0)) ** 2))

    def make(strength):
        return LinearSVC(C=1 / strength, class_weight="balanced", random_state=0, tol=1e-8, max_iter=100_000)

    means = [
        cross_val_score(make(s), standard, artifact, cv=stratified_folds(artifact), scoring="average_precision").mean()
        for s in STRENGTHS
    ]
    theirs = make(STRENGTHS[int(np.argmax(np.round(means, 9)))]).fit(standard, artifact)
    cav = fit_cav(x, artifact, "svm", "late")
    np.testing.assert_allclose(cav.vector, theirs.coef_[0] / np.linalg.norm(theirs.coef_), atol=1e-5)
    assert ((cav.scores(x) > 0) == theirs.predict(standard)).all()


def test_signal_is_the_covariance_pattern_and_the_mean_difference_direction():
    x, artifact = data()
    pattern = naive.signal(x, artifact)
    signal, mean = (fit_cav(x, artifact, kind, "late") for kind in ("signal", "mean"))
    np.testing.assert_allclose(signal.vector, pattern / np.linalg.norm(pattern), atol=1e-6)
    np.testing.assert_allclose(signal.vector, mean.vector, atol=1e-6)
    assert signal.intercept == pytest.approx(mean.intercept, abs=1e-4)
    assert signal.mean_clean < -signal.intercept < signal.mean_artifact
    assert -signal.intercept == pytest.approx((signal.mean_clean + signal.mean_artifact) / 2, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_a_unit_vector_that_separates_and_counts_its_samples(kind):
    x, artifact = data(n=200, n_artifact=30)
    x[artifact, 3] += 12
    cav = fit_cav(x.astype(np.float32), artifact, kind, "late", "mean")
    assert np.linalg.norm(cav.vector) == pytest.approx(1, abs=1e-6) and cav.vector.dtype == np.float32
    assert ((cav.scores(x) > 0) == artifact).mean() > 0.95
    assert cav.mean_clean == pytest.approx((x[~artifact] @ cav.vector).mean(), rel=1e-4)
    assert (cav.n_clean, cav.n_artifact, cav.layer, cav.pool, cav.name) == (170, 30, "late", "mean", f"late/{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_direction_ignores_the_scale_and_the_offset_of_the_features(kind):
    x, artifact = data()
    cav, other = fit_cav(x, artifact, kind, "late"), fit_cav(x * 1e-3 + 5, artifact, kind, "late")
    assert cav.vector @ other.vector == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(other.scores(x * 1e-3 + 5) * 1e3, cav.scores(x), atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_repeating_the_clean_samples_hardly_turns_the_direction(kind):
    x, artifact = data(n=120, n_artifact=40)
    if kind in ("signal", "mean", "median"):
        x2, artifact2 = np.vstack([x, x[~artifact]]), np.concatenate([artifact, np.zeros((~artifact).sum(), bool)])
        assert fit_cav(x, artifact, kind, "l").vector @ fit_cav(x2, artifact2, kind, "l").vector == pytest.approx(
            1, abs=1e-6
        )
    else:
        weights = balanced_weights(artifact)
        assert weights[artifact].sum() == pytest.approx(weights[~artifact].sum()) and weights.max() == 1


def test_lasso_is_the_balanced_lasso_with_the_best_average_precision():
    x, artifact = data()
    standard, y, weights = standardised(x), np.where(artifact, 1, -1), balanced_weights(artifact)
    alive = [s for s in LASSO_STRENGTHS if np.any(Lasso(s).fit(standard, y, weights).coef_)]
    means = []
    for strength in alive:
        found = []
        for train, test in stratified_folds(artifact).split(x, artifact):
            rebalanced = balanced_weights(artifact[train])
            model = Lasso(strength, max_iter=5000).fit(standard[train], y[train], rebalanced)
            found.append(average_precision_score(artifact[test], model.predict(standard[test])))
        means.append(np.mean(found))
    theirs = Lasso(alive[int(np.argmax(np.round(means, 9)))], max_iter=5000, tol=1e-8).fit(standard, y, weights)
    cav = fit_cav(x, artifact, "lasso", "late")
    np.testing.assert_allclose(cav.vector, theirs.coef_ / np.linalg.norm(theirs.coef_), atol=2e-3)
    assert 0 < len(alive) < len(LASSO_STRENGTHS)


@pytest.mark.parametrize("shape", [(80, 12), (30, 50)], ids=["tall", "wide"])
def test_logistic_is_the_balanced_regression_with_the_best_average_precision(shape):
    x, artifact = data(*shape, n_artifact=9)
    standard = standardised(x)

    def make(strength):
        return LogisticRegression(C=1 / strength, class_weight="balanced", max_iter=5000, tol=1e-8)

    means = [
        cross_val_score(make(s), standard, artifact, cv=stratified_folds(artifact), scoring="average_precision").mean()
        for s in STRENGTHS
    ]
    theirs = make(STRENGTHS[int(np.argmax(np.round(means, 9)))]).fit(standard, artifact)
    cav = fit_cav(x, artifact, "logistic", "late")
    assert cav.vector @ (theirs.coef_[0] / np.linalg.norm(theirs.coef_)) == pytest.approx(1, abs=1e-4)
    assert ((cav.scores(x) > 0) == theirs.predict(standard)).all()


@pytest.mark.parametrize("shape", [(80, 12), (30, 50)], ids=["tall", "wide"])
def test_lda_path_equals_scikit_learn_for_every_shrinkage(shape):
    x, artifact = data(*shape, n_artifact=9)
    coefficients, intercepts = lda_path(Labelled(x, artifact).both(), SHRINKAGES, x.shape[1])
    for shrinkage, coefficient, intercept in zip(SHRINKAGES, coefficients, intercepts):
        theirs = LinearDiscriminantAnalysis("lsqr", shrinkage=shrinkage, priors=[0.5, 0.5]).fit(x, artifact)
        np.testing.assert_allclose(coefficient, theirs.coef_[0], rtol=1e-6, atol=1e-8)
        assert intercept == pytest.approx(theirs.intercept_[0], rel=1e-6, abs=1e-8)


def test_the_median_resists_an_outlier_that_turns_the_mean():
    x, artifact = data(n=200, n_artifact=40)
    median = fit_cav(x, artifact, "median", "late")
    expected = np.array([sorted(c[artifact])[19:21] for c in x.T]).mean(1) - np.median(x[~artifact], axis=0)
    np.testing.assert_allclose(median.vector, expected / np.linalg.norm(expected), atol=1e-6)
    x[np.flatnonzero(artifact)[0], 0] = -1e4
    assert fit_cav(x, artifact, "median", "late").vector @ median.vector > 0.95
    assert abs(fit_cav(x, artifact, "mean", "late").vector @ median.vector) < 0.5


@pytest.mark.parametrize("scaling", ["centered", "max", "second_moment", "none"])
def test_scaling_is_undone_so_that_scores_are_those_of_the_scaled_fit(scaling):
    x, artifact = data()
    centre = x.mean(0) if scaling == "centered" else 0.0
    factor = {"max": np.abs(x).max(0), "second_moment": np.sqrt((x**2).mean(0))}.get(scaling, np.ones(x.shape[1]))
    scaled = (x - centre) / factor
    direction, offset, _ = CAV_KINDS["ridge"](Labelled(scaled, artifact))
    cav = fit_cav(x, artifact, "ridge", "late", scaling=scaling)
    theirs = scaled @ direction + offset
    np.testing.assert_allclose(np.corrcoef(cav.scores(x), theirs)[0, 1], 1, atol=1e-9)
    assert ((cav.scores(x) > 0) == (theirs > 0)).all()
    signal = fit_cav(x, artifact, "signal", "late", scaling=scaling)
    np.testing.assert_array_equal(signal.vector, fit_cav(x, artifact, "signal", "late").vector)


def test_constant_features_get_no_weight_and_do_no_harm():
    x, artifact = data()
    x[:, 5] = 3.0
    for kind in ("signal", "median", "ridge", "lasso", "lda"):
        cav = fit_cav(x, artifact, kind, "late")
        assert np.isfinite(cav.vector).all() and np.isfinite(cav.intercept) and abs(cav.vector[5]) < 1e-6


def test_features_that_are_not_finite_are_counted():
    x, artifact = data()
    x[3, 4] = np.inf
    with pytest.raises(InputError, match="Got 1 other values in layer 'late'"):
        fit_cav(x, artifact, "ridge", "late")


@pytest.mark.parametrize("count", [0, 1, 79, 80])
def test_too_few_samples_of_a_class_are_one_clear_sentence(count):
    x, _ = data()
    with pytest.raises(InputError, match=f"Got {count} and {80 - count} instead"):
        fit_cav(x, np.arange(80) < count, "ridge", "late")


@pytest.mark.parametrize("kind", KINDS)
def test_two_artifact_samples_suffice(kind):
    x, _ = data()
    assert np.isfinite(fit_cav(x, np.arange(80) < 2, kind, "late").vector).all()


def test_features_that_do_not_vary_are_named():
    with pytest.raises(InputError, match="layer 'dead'"):
        fit_cav(np.ones((10, 4)), np.arange(10) < 5, "signal", "dead")


def test_unknown_kinds_list_the_choices():
    with pytest.raises((InputError, ValidationError), match="ridge"):
        CavParams(kinds=("rigde",))
    assert set(KINDS) <= set(CAV_KINDS.names())


def test_cavs_survive_a_file_and_are_found_by_name(tmp_path):
    x, artifact = data()
    cavs = Cavs(tuple(fit_cav(x, artifact, kind, layer) for layer in ("a.1", "b") for kind in ("signal", "ridge")))
    save_cavs(tmp_path / "cavs.safetensors", cavs)
    loaded = load_cavs(tmp_path / "cavs.safetensors")
    assert len(loaded) == 4
    for before, after in zip(cavs, loaded):
        np.testing.assert_array_equal(before.vector, after.vector)
        assert (before.name, before.intercept, before.mean_clean) == (after.name, after.intercept, after.mean_clean)
    assert loaded.find("b", "ridge").name == "b/ridge"
    with pytest.raises(InputError, match="a.1/signal"):
        loaded.find("c", "ridge")


def test_a_file_says_how_vectors_were_fitted_and_older_files_do_not(tmp_path):
    x, artifact = data()
    path = tmp_path / "cavs.safetensors"
    fitted = tuple(fit_cav(x, artifact, kind, "a", scaling="max") for kind in ("ridge", "signal"))
    save_cavs(path, Cavs(fitted, "f1a9", "phantom", 3))
    loaded = load_cavs(path)
    assert (loaded.model, loaded.study, loaded.seed) == ("f1a9", "phantom", 3)
    assert [(cav.scaling, cav.strength) for cav in loaded] == [("max", fitted[0].strength), ("none", None)]
    with safe_open(path, framework="numpy") as file:
        about, vector = file.metadata(), file.get_tensor("cav_0")
    record = json.loads(about["cavs"])[0]
    del record["scaling"], record["strength"]
    save_file({"cav_0": vector}, path, metadata={"cavs": json.dumps([record])})
    loaded = load_cavs(path)
    assert (loaded.items[0].scaling, loaded.items[0].strength, loaded.study, loaded.seed) == ("", None, "", None)


@pytest.mark.parametrize("kind", KINDS)
def test_filters_say_which_of_the_strengths_was_chosen(kind):
    choices = {"lasso": LASSO_STRENGTHS, "lda": SHRINKAGES}.get(kind, STRENGTHS)
    for shape in ((80, 12), (30, 50)):
        strength = fit_cav(*data(*shape, n_artifact=9), kind, "late").strength
        assert strength is None if kind in ("signal", "mean", "median") else strength in choices


@pytest.mark.parametrize("scaling", ["global", "max", "second_moment"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_in_blocks_give_the_vector_of_all_at_once(kind, scaling, monkeypatch):
    x, artifact = data(150, 12)

    def both():
        cav = fit_cav(x, artifact, kind, "late", scaling=scaling)
        return CAV_KINDS[kind](Labelled(x, artifact).scaled(scaling)), cav

    plane, cav = both()
    monkeypatch.setattr(labelled, "BLOCK", 7 * 12)  # 22 blocks, some without the artifact
    plane_of_parts, cav_of_parts = both()
    scale = np.abs(plane.direction).max()
    np.testing.assert_allclose(plane_of_parts.direction, plane.direction, rtol=1e-9, atol=1e-9 * scale)
    assert plane_of_parts.strength == plane.strength == cav.strength or kind in PATTERNS
    np.testing.assert_allclose(cav_of_parts.vector, cav.vector, atol=1e-7)
    for name in ("intercept", "mean_clean", "mean_artifact"):
        assert getattr(cav_of_parts, name) == pytest.approx(getattr(cav, name), rel=1e-9, abs=1e-9)


def test_memory_does_not_grow_with_the_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "BLOCK", 2**14)
    rng, peaks = np.random.default_rng(0), []
    for n in (4000, 16_000):
        x = np.lib.format.open_memmap(tmp_path / f"{n}.npy", "w+", np.float32, (n, 256))
        artifact = rng.random(n) < 0.2
        x[:] = rng.normal(size=x.shape) + artifact[:, None] * 0.1
        tracemalloc.start()
        fit_kinds(x, artifact, ("signal", "mean", "ridge", "lda"), "late")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 12_000 * 40 * 8  # scores of ten strengths, and what ranks them; not 256 features
    assert peaks[1] < 16_000 * 256 * 8 / 2


def test_vectors_without_a_positive_entry_cannot_localize_where_others_can():
    x, artifact = np.random.default_rng(0).random((40, 3)), np.arange(40) < 20
    lower, mixed = (
        fit_cav(x - np.where(artifact, 1, 0)[:, None] * shift, artifact, "mean", name)
        for name, shift in (("lower", np.array([1, 2, 3])), ("mixed", np.array([1, -2, 3])))
    )
    assert not (lower.vector > 0).any() and (mixed.vector > 0).any()
    found = Cavs((lower, mixed), "m").localizing()
    assert [cav.layer for cav in found] == ["mixed"] and found.model == "m"
    assert len(Cavs((lower,)).localizing()) == 1 and not len(Cavs().localizing())


def test_no_cavs_survive_a_file(tmp_path):
    save_cavs(tmp_path / "cavs.safetensors", Cavs())
    assert len(load_cavs(tmp_path / "cavs.safetensors")) == 0
    with pytest.raises(InputError, match="no artifact was confirmed"):
        Cavs().find("a", "ridge")
