from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.tiny import image_set, tiny_model

from xai_robustness.attribution import latents as module
from xai_robustness.attribution.latents import Latents, PreprocessingParams, latents_job, layer_shapes, targets
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.chunks import open_arrays
from xai_robustness.types import InputError

LAYERS = ["layer1", "layer3"]


def written(folder: Path, task: str = "multi-class", n: int = 11, **params: object) -> Latents:
    sets = {"train/biased": image_set(n, task=task), "val/biased": image_set(7, task=task, seed=1)}
    settings = PreprocessingParams(**{"layers": LAYERS, "batch_size": 2, "chunk": 4, **params})
    latents_job(tiny_model(), sets, settings, "cpu", "abc").write(folder)
    return Latents(open_arrays(folder))


def test_rows_equal_one_direct_pass(tmp_path: Path) -> None:
    latents = written(tmp_path)
    data = image_set(11)
    with Lrp(tiny_model()) as lrp:
        found = lrp.run(data.tensor(slice(0, 11)), torch.from_numpy(data.labels), LAYERS)
    close = lambda got, want: np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-6)  # noqa: E731
    close(latents.logits("train"), found.logits)
    close(latents.heatmaps("train"), found.attribution.sum(1))
    for layer in LAYERS:
        close(latents.activations("train", layer, "max"), found.activations[layer].amax((2, 3)))
        close(latents.activations("train", layer, "mean"), found.activations[layer].mean((2, 3)))
        close(latents.relevances("train", layer, "sum"), found.relevances[layer].sum((2, 3)))
        close(latents.relevances("train", layer, "max"), found.relevances[layer].amax((2, 3)))
        close(latents.relevances("train", layer, "mean"), found.relevances[layer].mean((2, 3)))
    assert np.array_equal(latents.labels("train"), data.labels)
    assert np.array_equal(latents.targets("train"), data.labels)
    assert np.array_equal(latents.sample_ids("val"), image_set(7, seed=1).sample_ids)
    assert (latents.layers, latents.sets) == (tuple(LAYERS), ("train/biased", "val/biased"))


def test_attributes_describe_the_store(tmp_path: Path) -> None:
    attributes = dict(written(tmp_path).roots[0].attrs)
    assert attributes["layer_shapes"] == {"layer1": [8, 6, 6], "layer3": [8, 3, 3]}
    assert attributes["model"] == "abc"
    assert attributes["composite"] == "epsilon_plus_flat"


def test_goes_on_after_a_kill_with_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(tmp_path / "whole")
    original, calls = module._Compute.__call__, []

    def dying(self: object, start: int, stop: int) -> object:
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, start, stop)

    monkeypatch.setattr(module._Compute, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "killed")
    resumed = written(tmp_path / "killed")
    assert calls == [0, 4, 8, 8, 0, 4]
    for key in ("heatmaps", "logits", "relevances/layer1/sum", "activations/layer3/max"):
        for split in ("train", "val"):
            assert np.array_equal(resumed._read(split, "biased", key), whole._read(split, "biased", key))


def test_batch_size_and_chunks_do_not_matter(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one"), written(tmp_path / "other", batch_size=64, chunk=64)
    np.testing.assert_allclose(one.heatmaps("train"), other.heatmaps("train"), rtol=1e-4, atol=1e-6)


def test_targets_of_multi_label_samples() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])
    labels = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 0]])
    assert targets(logits, labels, "multi-label").tolist() == [2, 0, 1]
    assert targets(logits, torch.tensor([0, 1, 2]), "multi-class").tolist() == [0, 1, 2]


def test_multi_label_store(tmp_path: Path) -> None:
    latents = written(tmp_path, task="multi-label")
    assert latents.labels("train").shape == (11, 3)
    chosen = latents.labels("train")[np.arange(11), latents.targets("train")]
    assert chosen.all()


def test_empty_layers_mean_the_inspected_ones() -> None:
    assert PreprocessingParams().resolve(tiny_model()) == ("layer1", "layer2", "layer3", "layer4")


def test_unknown_layer_before_any_computing() -> None:
    with pytest.raises(InputError, match="Unknown layer 'layer9'. Choose from: layer1"):
        latents_job(tiny_model(), {}, PreprocessingParams(layers=["layer9"]), "cpu", "abc")


def test_reader_says_what_there_is(tmp_path: Path) -> None:
    latents = written(tmp_path)
    for read in (lambda: latents.heatmaps("test"), lambda: latents.activations("train", "layer2")):
        with pytest.raises(InputError, match="It has the sets train/biased, val/biased and the layers layer1, layer3"):
            read()


def test_joined_readers_have_the_sets_of_both(tmp_path: Path) -> None:
    latents = written(tmp_path / "fit")
    latents_job(
        tiny_model(), {"test/biased": image_set(5, seed=2)}, PreprocessingParams(layers=LAYERS), "cpu", "a"
    ).write(tmp_path / "report")
    both = latents.joined(Latents(open_arrays(tmp_path / "report")))
    assert both.sets == ("test/biased", "train/biased", "val/biased")
    assert len(both.logits("test")) == 5 and len(both.logits("train")) == 11


def test_layer_shapes() -> None:
    model = tiny_model().train()
    assert layer_shapes(model, (3, 12, 12), ["layer2", "flatten"]) == {"layer2": [6, 3, 3], "flatten": [8]}
    assert model.training
