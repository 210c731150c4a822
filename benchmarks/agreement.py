"""The agreement job against explaining and scoring each pair of clean and corrupted images for itself.

ResNet18 with random weights (they do not change the cost) on test images of BreastMNIST at 28 pixels, 10 methods,
5 corruptions x 5 severities, the three default metrics. The peer takes one method, corruption and severity after
another, in batches of the same size: corrupt, explain the clean and the corrupted image, score; it is given the
classes. Both sides count the samples that each method explained and those that went forward through the model.

`python benchmarks/agreement.py` prints the peak memory of the job for more and more images.
"""

import resource  # noqa: F401  for the code of `peak`
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from xai_robustness.attribution.base import Attributor, Shared
from xai_robustness.attribution.many import count_passes
from xai_robustness.corruptions import corrupt
from xai_robustness.datasets.base import ImageSet
from xai_robustness.datasets.load import DataParams, load_dataset, raw_root
from xai_robustness.metrics.agreement import AGREEMENTS
from xai_robustness.metrics.agreement_maps import prepare
from xai_robustness.models.zoo import ModelParams, build, inspected_layers
from xai_robustness.robustness.corruption import agreement_metrics, drawn, make_explainer
from xai_robustness.robustness.params import SEVERITIES, RobustnessParams

METHODS = [
    *("saliency", "input_x_gradient", "guided_backprop", "deconvolution", "integrated_gradients", "deeplift"),
    *("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam"),
]
IMAGES = 156
"""All test images."""


def setting(images: int, batch_size: int = 32) -> tuple[nn.Sequential, ImageSet, RobustnessParams]:
    """Model, all test images, parameters."""
    raw = load_dataset(DataParams(name="breastmnist", n_train=None, n_val=None, n_test=None), 0, raw_root())["test"]
    data = ImageSet(raw.images, raw.labels, raw.sample_ids, raw.info)
    model = build(ModelParams(name="resnet18"), 2, data.image_shape, [0.3], [0.2], 0).eval()
    params = RobustnessParams(methods=METHODS, ig_steps=8, n_explained=images, batch_size=batch_size)
    return model, data, params


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Samples that each method explains while the context is open."""
    seen: Counter[str] = Counter()
    original = Attributor.explain

    def explain(self: Attributor, shared: Shared) -> torch.Tensor:
        seen[type(self).__name__] += len(shared.images)
        return original(self, shared)

    Attributor.explain = explain  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Attributor.explain = original  # type: ignore[method-assign]


def pairwise(model: nn.Sequential, data: ImageSet, params: RobustnessParams) -> None:
    """Every pair for itself."""
    images = drawn(data, params.n_explained, "explained", 0)
    layer = inspected_layers(model)[-1]
    with torch.no_grad():
        targets = torch.cat([model(batch.images).argmax(1) for batch in images.batches(params.batch_size)])
    for method in params.methods:
        explainer = make_explainer(method, model, params, layer)
        for name in params.chosen:
            for severity in SEVERITIES:
                for batch in images.batches(params.batch_size):
                    ids, classes = images.sample_ids[batch.rows].tolist(), targets[batch.rows]
                    corrupted = corrupt(name, batch.images, ids, severity, 0, params.table)
                    pair = [prepare(explainer(x, classes), params.maps) for x in (batch.images, corrupted)]
                    for key in params.agreements:
                        AGREEMENTS[key](*pair)


def rows() -> list[dict[str, object]]:
    """CPU seconds, explained samples a method and version, and forward passes, each from one run of minutes."""
    torch.set_num_threads(1)
    model, data, params = setting(IMAGES)
    layer = inspected_layers(model)[-1]
    calls = {
        "ours": lambda: agreement_metrics({"vanilla": model}, data, params, 0, "cpu", layer),
        "peer": lambda: pairwise(model, data, params),
    }
    times: dict[str, float] = {}
    forward: dict[str, float] = {}
    explained: dict[str, float] = {}
    for key, call in calls.items():
        with counted() as seen, count_passes(model) as passes:
            started = time.process_time()
            call()
            times[key] = time.process_time() - started
        forward[key], explained[key] = passes.samples, max(seen.values())
        if key == "ours":
            assert set(seen.values()) == {IMAGES * 26}, seen
    case = f"agreement, {len(METHODS)} methods x 5 x 5, n={IMAGES}"
    return [
        _row(case, times, "CPU s"),
        _row(f"{case}: explained by each method", explained, "samples"),
        _row(f"{case}: forward passes", forward, "samples"),
    ]


def _row(case: str, values: dict[str, float], unit: str) -> dict[str, object]:
    ours, peer = values["ours"], values["peer"]
    return {
        "case": case,
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "unit": unit,
        "ratio": round(peer / ours, 2),
    }


def peak(images: int) -> float:
    """Peak resident memory (MB) of the job alone, in a process of its own, batches of 8, three cheap methods."""
    code = (
        "import sys, agreement as a; m, d, p = a.setting(int(sys.argv[1]), 8); "
        "p = p.model_copy(update={'methods': ['saliency', 'input_x_gradient', 'grad_cam']}); "
        "a.agreement_metrics({'vanilla': m}, d, p, 0, 'cpu', 'layer4'); "
        "print(a.resource.getrusage(a.resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(images)], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    for n in (8, 32, 128):
        print(f"{n} images: {peak(n):.0f} MB")
