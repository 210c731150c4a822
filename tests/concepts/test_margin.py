import numpy as np
import pytest
from sklearn.svm import LinearSVC

from xai_robustness.concepts.margin import svm_path


def samples(n, k, seed=0):
    rng = np.random.default_rng(seed)
    artifact = rng.random(n) < 0.25
    return rng.normal(size=(n, k)) + artifact[:, None] * rng.normal(size=k) * 0.4, artifact


@pytest.mark.parametrize(("n", "k"), [(150, 12), (40, 90)])
def test_every_strength_is_the_balanced_squared_hinge_svm_of_scikit_learn(n, k):
    x, artifact = samples(n, k)
    strengths = np.array([1000.0, 10.0, 0.1])
    coefficients, intercepts = svm_path(x, artifact, strengths)
    for strength, v, b in zip(strengths, coefficients, intercepts):
        theirs = LinearSVC(C=1 / strength, class_weight="balanced", tol=1e-10, max_iter=200_000).fit(x, artifact)
        np.testing.assert_allclose(v, theirs.coef_[0], atol=1e-6 * np.abs(v).max())
        assert b == pytest.approx(theirs.intercept_[0], abs=1e-6)


@pytest.mark.parametrize(("n", "k"), [(150, 12), (40, 90)])
@pytest.mark.parametrize("strength", [1e4, 1.0, 1e-5])
def test_the_gradient_vanishes_at_the_solution(n, k, strength):
    x, artifact = samples(n, k, seed=1)
    (v,), (b,) = svm_path(x, artifact, np.array([strength]))
    y = np.where(artifact, 1.0, -1.0)
    cost = len(y) / (2 * np.where(artifact, artifact.sum(), (~artifact).sum())) / strength
    pull = 2 * cost * y * np.maximum(1 - y * (x @ v + b), 0)
    scale = np.abs(pull).sum() + 1e-12
    np.testing.assert_allclose(v, pull @ x, atol=1e-7 * scale)
    assert b == pytest.approx(pull.sum(), abs=1e-7 * scale)


def test_the_start_does_not_matter():
    x, artifact = samples(60, 30, seed=2)
    strengths = np.array([100.0, 1.0, 1e-3])
    warm = svm_path(x, artifact, strengths)[0]
    cold = np.concatenate([svm_path(x, artifact, strengths[[i]])[0] for i in range(3)])
    np.testing.assert_allclose(warm, cold, atol=1e-8 * np.abs(cold).max())
