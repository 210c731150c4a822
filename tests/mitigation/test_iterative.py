import numpy as np
import pytest
import torch
from tests.mitigation.toys import same, state

from xai_robustness.concepts.cav import Cav, Cavs
from xai_robustness.mitigation.base import METHODS, Candidate
from xai_robustness.mitigation.iterative import correct_in_turn, last_inserted
from xai_robustness.mitigation.params import IterativeParams, PClarcParams, RrClarcParams
from xai_robustness.models.taps import pool, tap
from xai_robustness.models.zoo import insert_after


def axis(k, layer="relu", target=0.2):
    return Cavs((Cav(np.eye(6, dtype=np.float32)[k], 0.0, "signal", layer, "max", target, 0.9, 20, 10),))


def test_two_artifacts_are_projected_out_one_after_the_other(material):
    from dataclasses import replace

    def prepare(k):
        return lambda model: replace(material, model=model, cavs=axis(k, last_inserted(model, "relu")))

    candidate = Candidate("both", "p_clarc", "relu", None, "signal")
    method = METHODS["p_clarc"](PClarcParams())
    found = correct_in_turn(method, candidate, material.model, [prepare(0), prepare(3)])
    assert found.candidate == candidate and not hasattr(material.model, "projection")
    assert last_inserted(found.model, "relu") == "projection2"
    with torch.no_grad(), tap(found.model, ["projection2"]) as outputs:
        found.model(material.train.tensor(slice(None)))
    pooled = pool(outputs["projection2"], "max")
    torch.testing.assert_close(pooled[:, [0, 3]], torch.full((48, 2), 0.2), atol=1e-5, rtol=0)


def test_a_round_that_fails_ends_the_chain_and_says_which(material):
    from dataclasses import replace

    method = METHODS["rr_clarc"](RrClarcParams(layers=("relu",), gradient_clip=1e30, lr=10.0))
    rounds = [lambda model, seed=seed: replace(material, model=model, seed=seed) for seed in (0, 1)]
    found = correct_in_turn(method, Candidate("x", "rr_clarc", "relu", 1e38, "signal"), material.model, rounds)
    assert found.model is None and found.stopped.startswith("in round")


@pytest.mark.parametrize("base", ["p_clarc", "rr_clarc", "a_clarc"])
def test_every_base_method_takes_its_turns(labelled, base):
    params = IterativeParams(enabled=True, base=base, layers=("block",), lambdas=(2.0,), rounds=2, batch_size=16)
    method, before = METHODS["iterative"](params), state(labelled.model)
    (candidate,) = method.candidates(())
    assert method.absence(candidate, labelled) is None
    (found,) = method.correct([candidate], labelled)
    assert same(before, state(labelled.model)) and not same(before, state(found.model))
    assert [record.get("round") for record in found.history] == ([] if base == "p_clarc" else [1, 2])


def test_a_second_projection_of_the_same_mean_difference_is_left_out(labelled):
    """Behind the first projection the means of the two groups are equal: a second vector would be noise."""
    params = IterativeParams(enabled=True, layers=("relu",), rounds=2)
    (found,) = METHODS["iterative"](params).correct(METHODS["iterative"](params).candidates(()), labelled)
    assert hasattr(found.model, "projection") and not hasattr(found.model, "projection2")


def test_without_labels_there_is_nothing_to_correct(material):
    method = METHODS["iterative"](IterativeParams(enabled=True, layers=("relu",)))
    assert "labelled" in method.absence(method.candidates(())[0], material)


def test_insertions_behind_a_nested_layer_are_found(material):
    from xai_robustness.models.insertions import Projection

    model = insert_after(material.model, "block.0", Projection(torch.eye(1, 8)[0], 0.0), "projection")
    assert last_inserted(model, "block.0") == "block.projection" and last_inserted(model, "relu") == "relu"
