import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from xai_robustness.models.objective import class_weights, loss_for, positive_weights, scores


def test_class_weights_balance() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2] * 2)
    weights = class_weights(labels, 4)
    assert weights.tolist() == [1, 2, 3, 0]
    assert positive_weights(np.array([[1, 0], [0, 0], [0, 0]])).tolist() == [2, 1]


@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy(weighted: bool) -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    logits = torch.randn(6, 3)
    y = torch.from_numpy(labels)
    weight = class_weights(labels, 3) if weighted else torch.ones(3)
    each = -logits.log_softmax(1)[torch.arange(6), y]
    expected = (weight[y] * each).sum() / weight[y].sum()
    torch.testing.assert_close(loss_for("multi-class", labels, 3, weighted, "cpu")(logits, y), expected)
    torch.testing.assert_close(loss_for("ordinal", labels, 3, weighted, "cpu")(logits, y), expected)


def test_multi_label_weights_positives() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, 1]])
    logits, y = torch.randn(4, 2), torch.from_numpy(labels)
    each = F.binary_cross_entropy_with_logits(logits, y.float(), reduction="none")
    expected = (each * torch.where(y == 1, torch.tensor([3.0, 1.0]), torch.ones(2))).mean()
    torch.testing.assert_close(loss_for("multi-label", labels, 2, True, "cpu")(logits, y), expected)


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, 50), rng.normal(size=(50, 2)).astype(np.float32)
    found = scores(logits, labels, "binary", loss_for("binary", labels, 2, False, "cpu"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    assert list(found) == ["loss", "accuracy", "balanced_accuracy", "auroc"]


def test_logits_that_are_not_finite_have_no_score() -> None:
    logits = np.full((4, 2), np.nan, dtype=np.float32)
    found = scores(logits, np.array([0, 1, 0, 1]), "binary", loss_for("binary", np.array([0, 1]), 2, False, "cpu"))
    assert np.isnan(list(found.values())).all()
