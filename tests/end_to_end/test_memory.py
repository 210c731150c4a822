"""Peak memory of preprocessing does not grow with the number of samples.

It is the high-water mark of the measured process itself: `ru_maxrss` is handed on from the process that starts it.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, tempfile
from pathlib import Path
import numpy as np, torch, zarr
from xai_robustness.attribution.latents import PreprocessingParams, latents_job
from xai_robustness.datasets.base import ImageSet
from xai_robustness.datasets.load import DataParams, dataset_info
from xai_robustness.models.zoo import ModelParams, build

torch.set_num_threads(1)
n, folder = int(sys.argv[1]), Path(tempfile.mkdtemp())
images = zarr.create_array(folder / "images", shape=(n, 28, 28, 3), chunks=(128, 28, 28, 3), dtype="uint8")
rng = np.random.default_rng(0)
for start in range(0, n, 128):
    images[start : start + 128] = rng.integers(0, 255, (min(128, n - start), 28, 28, 3), dtype=np.uint8)
model = build(ModelParams(name="resnet18"), 3, (3, 28, 28), [0.5] * 3, [0.5] * 3, 0).eval()
part = ImageSet(images, np.zeros(n, np.int64), np.arange(n), dataset_info(DataParams()))
params = PreprocessingParams(batch_size=32, chunk=128)
latents_job(model, {"train/biased": part}, params, "cpu", "x").write(folder / "l")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(n: int) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(n)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_preprocessing_is_flat():
    small, large = peak(384), peak(4 * 384)
    assert large < 1.1 * small, f"peak memory {small} kB for n, {large} kB for 4 n"
