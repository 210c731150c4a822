"""kill -9 at random moments of training and preprocessing: the same command ends with the same hashes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.end_to_end.conftest import make_project

PARAMS = (
    "data.n_train=300,data.n_val=60,data.n_test=60,training.epochs=4,preprocessing.chunk=40,preprocessing.batch_size=20"
)
FILES = {"training": "06_models", "preprocessing": "04_feature"}


def command(folder: Path, pipeline: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "XAI_DATA_ROOT"}
    run = [sys.executable, "-m", "kedro", "run", "--env", "smoke", "--pipelines", pipeline, "--params", PARAMS]
    return subprocess.Popen(
        run, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(folder: Path, pipeline: str) -> str:
    process = command(folder, pipeline)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def hashes(folder: Path, layer: str) -> dict[str, str]:
    """Content of every file of the newest versions, without provenance and the mark of a version's time."""
    found = {}
    for path in sorted((folder / "data" / layer).rglob("*")):
        if path.is_file() and path.name != "provenance.json":
            parts = [part for part in path.relative_to(folder / "data" / layer).parts if not part.startswith("20")]
            found["/".join(parts)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def partial(folder: Path, layer: str) -> bool:
    return any((folder / "data" / layer).rglob(".partial-*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("undisturbed") / "project").folder
    started = time.monotonic()
    finish(folder, "training")
    trained = time.monotonic()
    finish(folder, "preprocessing")
    return folder, {"training": trained - started, "preprocessing": time.monotonic() - trained}


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["training", "preprocessing"])
def test_three_kills_change_nothing(pipeline, undisturbed, tmp_path):
    reference, seconds = undisturbed
    layer = FILES[pipeline]
    folder = make_project(tmp_path / "project").folder
    if pipeline == "preprocessing":
        finish(folder, "training")
    rng, kills = random.Random(0), 0
    for _ in range(12):
        process = command(folder, pipeline)
        deadline = time.monotonic() + 3 * seconds[pipeline] + 60
        while process.poll() is None and not partial(folder, layer) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(0.1, 1.5))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        if kills == 3:
            break
    assert kills >= 1, "the run ended before it could be killed"
    output = finish(folder, pipeline)
    assert "To run" in output
    assert hashes(folder, layer) == hashes(reference, layer)
    assert not partial(folder, layer)
