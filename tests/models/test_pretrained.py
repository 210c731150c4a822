"""ImageNet weights: where they come from, and that torchvision's files fit the zoo."""

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from tests.datasets.web import refuse, serve
from tests.models.tiny import images
from torch import Tensor

from xai_robustness.models import pretrained
from xai_robustness.models.checkpoint import load_weights
from xai_robustness.models.pretrained import IMAGENET, weights_file, weights_name, weights_url
from xai_robustness.models.zoo import MODELS, ModelParams, build
from xai_robustness.types import InputError

PUBLISHED = [name for name in MODELS.names() if name in torchvision.models.list_models()]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XAI_DATA_ROOT", str(tmp_path / "raw"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_most_of_the_zoo_has_weights() -> None:
    assert {"resnet18", "vgg16", "densenet121", "efficientnet_b0", "vit_b_16", "convnext_base"} <= set(PUBLISHED)
    for name in PUBLISHED:
        assert weights_url(name).endswith(weights_name(name))


def test_a_file_is_taken_as_it_is() -> None:
    assert weights_file("some/where.pth", "resnet18") == Path("some/where.pth")


def test_the_raw_folder_comes_before_the_cache_of_torch(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch)
    name = f"net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    monkeypatch.setattr(pretrained, "weights_url", lambda model: f"https://example.org/{name}")
    places = [folders / "torch" / "hub" / "checkpoints" / name, folders / "raw" / "weights" / name]
    for place in places:
        place.parent.mkdir(parents=True)
        place.write_bytes(b"weights")
        assert weights_file(IMAGENET, "vgg11") == place
    places[1].write_bytes(b"weigh")
    with pytest.raises(InputError, match=r"raw/weights/net-.* must have the sha256 .* Delete it"):
        weights_file(IMAGENET, "vgg11")


def test_they_are_downloaded_once_and_checked(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, asked = b"weights", list[str]()
    url = f"https://example.org/net-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    monkeypatch.setattr(pretrained, "weights_url", lambda model: url)
    serve(monkeypatch, data, asked)
    for _ in range(2):
        assert weights_file(IMAGENET, "resnet18").read_bytes() == data
    assert asked == [url]
    monkeypatch.setattr(pretrained, "weights_url", lambda model: "https://example.org/net-00000000.pth")
    with pytest.raises(InputError, match=r"The download of .*net-00000000\.pth must have the sha256"):
        weights_file(IMAGENET, "resnet18")
    assert len(list((folders / "raw" / "weights").iterdir())) == 1


def test_without_a_network_one_sentence_names_file_and_folder(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch)
    with pytest.raises(InputError) as caught:
        weights_file(IMAGENET, "resnet18")
    for part in ("resnet18-f37072fd.pth", str(folders / "raw" / "weights"), "Put the file into that folder"):
        assert part in str(caught.value)
    assert not list(folders.iterdir())


def test_a_model_without_weights_is_named() -> None:
    with pytest.raises(InputError, match="torchvision has no ImageNet weights for 'medvit_tiny'"):
        weights_file(IMAGENET, "medvit_tiny")


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n in ("resnet18", "vgg11_bn", "densenet121", "vit_b_16")])
def test_published_files_fit_the_zoo(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=7).eval()
    torch.save(as_published(theirs.state_dict()), tmp_path / "net.pth")
    ours = build(ModelParams(name=name, stem="standard"), 7, (3, 224, 224), [0.0] * 3, [1.0] * 3, seed=1).eval()
    load_weights(tmp_path / "net.pth", ours)
    x = images(1, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state as in torchvision's files, where DenseNet's layers have names of an older release."""
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if "features.denseblock1.denselayer1.norm1.weight" not in kept:
        return kept
    inner = ("norm1", "norm2", "conv1", "conv2")
    old = {part: f"{part[:-1]}.{part[-1]}" for part in inner}
    return {
        ".".join(old.get(part, part) if "denselayer" in key else part for part in key.split(".")): value
        for key, value in kept.items()
    }
