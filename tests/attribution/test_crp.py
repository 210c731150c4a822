import pytest
import torch
from tests.models.tiny import images, tiny_model

from xai_robustness.attribution.crp import conditional_heatmaps, reference_samples
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1, 2, 0])


def test_conditional_heatmaps_equal_a_pass_with_everything_else_set_to_zero() -> None:
    model, x = tiny_model().double(), images().double()
    concepts = [[0], [1, 4], [2, 3, 5]]
    with Lrp(model) as lrp:
        found = conditional_heatmaps(lrp, x, TARGETS, "layer2", concepts, batch_size=5)
        whole = lrp.run(x, TARGETS).attribution.sum(1)
        for n, concept in enumerate(concepts):
            for i in range(4):  # one image and one concept at a time, the mask inside the pass
                off = [k for k in range(6) if k not in concept]

                def only(relevance: torch.Tensor, off: list[int] = off) -> torch.Tensor:
                    return relevance.clone().index_fill_(1, torch.tensor(off), 0)

                naive = lrp.run(x[i : i + 1], TARGETS[i : i + 1], masks={"layer2": only}).attribution.sum(1)
                torch.testing.assert_close(found[i, n], naive[0])
    assert found.shape == (4, 3, 12, 12)
    torch.testing.assert_close(found.sum(1), whole)


def test_conditional_heatmap_of_all_channels_is_the_heatmap() -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        found = conditional_heatmaps(lrp, x, TARGETS, "layer3", [range(8)])
        torch.testing.assert_close(found[:, 0], lrp.run(x, TARGETS).attribution.sum(1))


@pytest.mark.parametrize("how", ["sum", "max"])
def test_reference_samples_equal_a_sort_of_everything(how: str) -> None:
    model, x = tiny_model().double(), images(11).double()
    targets = torch.arange(11) % 3
    with Lrp(model) as lrp:
        batches = [(x[i : i + 4], targets[i : i + 4]) for i in range(0, 11, 4)]
        found = reference_samples(lrp, batches, ["layer1", "layer3"], top=5, how=how)
        for layer in ("layer1", "layer3"):
            scores = {"relevance": [], "activation": []}
            places = {"relevance": [], "activation": []}
            for i in range(11):
                one = lrp.run(x[i : i + 1], targets[i : i + 1], [layer])
                for kind, values in (("relevance", one.relevances[layer]), ("activation", one.activations[layer])):
                    rows = [v.sum() if how == "sum" else v.max() for v in values[0]]
                    size = sum(abs(v) for v in rows) if kind == "relevance" else 1
                    scores[kind].append([float(v / size) for v in rows])
                    places[kind].append([int(v.argmax()) for v in values[0]])
            for kind in scores:
                table, top = scores[kind], getattr(found[layer], kind)
                for k in range(len(table[0])):
                    best = sorted(range(11), key=lambda i: -round(table[i][k], 12))[:5]
                    torch.testing.assert_close(top.scores[k], torch.tensor([table[i][k] for i in best]).double())
                    if len({round(table[i][k], 9) for i in range(11)}) == 11:  # no ties
                        assert top.samples[k].tolist() == best
                        assert top.positions[k].tolist() == [places[kind][i][k] for i in best]


def test_fewer_samples_than_wanted_and_layers_without_positions() -> None:
    model, x = tiny_model(), images()
    with Lrp(model) as lrp:
        found = reference_samples(lrp, [(x, lambda logits: logits.argmax(1))], ["flatten"])
    assert found["flatten"].relevance.samples.shape == (8, 4)
    assert sorted(found["flatten"].activation.samples[0].tolist()) == [0, 1, 2, 3]
    assert found["flatten"].relevance.positions.max() == 0


def test_bad_input() -> None:
    with Lrp(tiny_model()) as lrp:
        with pytest.raises(InputError, match=r"channels in 0\.\.5"):
            conditional_heatmaps(lrp, images(), TARGETS, "layer2", [[6]])
        with pytest.raises(InputError, match="sets of channels"):
            conditional_heatmaps(lrp, images(), TARGETS, "layer2", [])
        with pytest.raises(InputError, match="must be at least 1"):
            reference_samples(lrp, [], ["layer1"], top=0)
        with pytest.raises(InputError, match="must hold images"):
            reference_samples(lrp, [], ["layer1"])
