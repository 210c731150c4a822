import pytest
import torch
from tests.models.tiny import images, tiny_model

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.many import attribute_many, count_passes
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1, 2, 0, 1])
NAMES = ("saliency", "input_x_gradient", "integrated_gradients", "grad_cam")


def test_results_are_those_of_the_methods_one_by_one() -> None:
    model, x = tiny_model(), images(5)
    methods = {name: ATTRIBUTORS.create(name, model) for name in NAMES}
    found = attribute_many(methods, x, TARGETS, batch_size=2)
    for name, method in methods.items():
        torch.testing.assert_close(found.attributions[name], method(x, TARGETS))
    torch.testing.assert_close(found.logits, model(x).detach())
    assert torch.equal(found.targets, TARGETS)


def test_one_gradient_serves_all_and_gives_the_predicted_class() -> None:
    model, x = tiny_model(), images(5)
    methods = {name: ATTRIBUTORS.create(name, model) for name in ("saliency", "input_x_gradient")}
    found = attribute_many(methods, x)
    assert torch.equal(found.targets, model(x).argmax(1))
    assert found.passes == 5
    torch.testing.assert_close(found.attributions["saliency"], methods["saliency"](x, found.targets))


def test_passes_of_the_head_alone_are_counted_too() -> None:
    model, x = tiny_model(), images(5)
    with count_passes(model) as passes:
        ATTRIBUTORS.create("grad_cam", model, batch_size=2)(x, TARGETS)
    assert (passes.samples, passes.calls) == (6, 4)  # with the one image that the targets are checked with


def test_the_model_comes_back_as_it_was() -> None:
    model = tiny_model().train()
    attribute_many({"s": ATTRIBUTORS.create("saliency", model)}, images(5), TARGETS)
    assert model.training and not model.fc._forward_pre_hooks
    assert all(weight.requires_grad for weight in model.parameters())


def test_bad_input() -> None:
    model = tiny_model()
    methods = {name: ATTRIBUTORS.create("saliency", m) for name, m in (("a", model), ("b", tiny_model()))}
    with pytest.raises(InputError, match="of the same model. Got 2 attributors of 2 models"):
        attribute_many(methods, images(5))
    with pytest.raises(InputError, match="Got 0 attributors"):
        attribute_many({}, images(5))
    with pytest.raises(InputError, match="targets parameter of attribute_many must be in 0..2"):
        attribute_many({"a": methods["a"]}, images(5), TARGETS + 1)
