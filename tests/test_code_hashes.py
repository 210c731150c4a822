import importlib
import sys
from pathlib import Path

import pytest

from xai_robustness import code_hashes as code

FILES = {
    "__init__.py": "",
    "nodes.py": (
        "from pkg.science import answer\nfrom pkg.figures import draw\n"
        "def helper(x):\n    return x\n"
        "def compute(x):\n    return helper(answer(x))\n"
        "def plot(x):\n    return draw(x)\n"
    ),
    "science.py": '"""Text."""\nfrom . import deep\ndef answer(x):\n    """Doc."""\n    return deep.f(x)\n',
    "deep.py": "def f(x):\n    return x + 1\n",
    "figures.py": "def draw(x):\n    return x\n",
}


@pytest.fixture
def hashes(tmp_path, monkeypatch):
    """Rewrite files of a small package and hash one of its functions, each time in a package of a new name."""
    counter = iter(range(100))

    def run(function: str, **changes: str) -> dict[str, str]:
        name = f"pkg{next(counter)}_{abs(hash(tmp_path)) % 10**6}"
        folder = Path(tmp_path) / name
        folder.mkdir()
        for file, text in {**FILES, **{f"{k}.py": v for k, v in changes.items()}}.items():
            (folder / file).write_text(text.replace("pkg", name))
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        module = importlib.import_module(f"{name}.nodes")
        found = {key.replace(name, "pkg"): value for key, value in code.code_hashes(getattr(module, function)).items()}
        for key in [k for k in sys.modules if k.startswith(name)]:
            del sys.modules[key]
        return found

    return run


def test_reaches_what_is_used_and_nothing_else(hashes):
    assert set(hashes("compute")) == {"pkg.nodes:compute", "pkg.science", "pkg.deep", "pkg"}
    assert set(hashes("plot")) == {"pkg.nodes:plot", "pkg.figures", "pkg"}


def test_docstrings_and_comments_do_not_count(hashes):
    edited = '"""Other text."""\nfrom . import deep  # remark\ndef answer(x):\n    return deep.f(x)\n'
    before, after = hashes("compute"), hashes("compute", science=edited)
    assert before["pkg.science"] == after["pkg.science"]


def test_an_indirect_import_counts(hashes):
    before, after = hashes("compute"), hashes("compute", deep="def f(x):\n    return x + 2\n")
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"pkg.deep"}


def test_a_used_helper_counts_and_a_neighbour_does_not(hashes):
    before = hashes("compute")
    helper = hashes("compute", nodes=FILES["nodes.py"].replace("return x\n", "return -x\n", 1))
    neighbour = hashes("compute", nodes=FILES["nodes.py"].replace("return draw(x)", "return draw(-x)"))
    assert before["pkg.nodes:compute"] != helper["pkg.nodes:compute"]
    assert before == neighbour


def test_the_packages_own_nodes_stay_apart():
    """An edit of a CAV function must not retrain, and it must refit the vectors."""
    from xai_robustness.pipelines.sample_retrieval.nodes import fit_concept_vectors
    from xai_robustness.pipelines.training.nodes import train_classifier

    assert "xai_robustness.concepts.cav" not in code.code_hashes(train_classifier)
    assert "xai_robustness.concepts.cav" in code.code_hashes(fit_concept_vectors)
