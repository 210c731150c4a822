"""One side of the SpRAy benchmark, in a process of its own: `spray_side.py ours|peer features.npy result.npz`.

The peer's side runs in an environment that has CoRelAy and nothing of this project, so nothing else is imported here.
Prints one line of JSON: seconds, processor seconds, and the growth of the largest resident memory in bytes while it
computes. Started as `spray_side.py fixture out.json` it writes the small example that the tests compare with.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

NEIGHBOURS, EIGENPAIRS, CLUSTERS, SEED = 32, 32, 12, 0


def peer(features: np.ndarray, neighbours: int, eigenpairs: int, clusters: int) -> tuple[np.ndarray, ...]:
    from corelay.pipeline.spectral import SpectralClustering
    from corelay.processor.affinity import SparseKNN
    from corelay.processor.clustering import KMeans
    from corelay.processor.embedding import EigenDecomposition

    pipeline = SpectralClustering(
        affinity=SparseKNN(n_neighbors=neighbours, symmetric=True),
        # its default, LM, takes eigenvalues of the other end too where those are larger in magnitude
        embedding=EigenDecomposition(n_eigval=eigenpairs, which="LA", is_output=True),
        clustering=KMeans(n_clusters=clusters, is_output=True, kwargs={"random_state": SEED, "n_init": 4}),
    )
    (values, vectors), labels = pipeline(features)
    order = np.argsort(values)
    return values[order], vectors[:, order], labels


def ours(features: np.ndarray, neighbours: int, eigenpairs: int, clusters: int) -> tuple[np.ndarray, ...]:
    from sklearn.cluster import KMeans

    from xai_robustness.concepts.embedding import spectral_embedding

    values, vectors = spectral_embedding(features, neighbours, eigenpairs, SEED)
    return values, vectors, KMeans(clusters, n_init=4, random_state=SEED).fit_predict(vectors)


def fixture(path: str) -> None:
    from importlib.metadata import version

    rng = np.random.default_rng(0)
    features = np.round(rng.normal(size=(90, 5)) + 4 * rng.integers(0, 2, (90, 5)) * (np.arange(5) < 2), 4)
    values, vectors, _ = peer(features, 10, 6, 4)
    made = {"made_with": {name: version(name) for name in ("corelay", "scipy", "numpy")}, "n_neighbors": 10}
    found = {"features": features, "eigenvalues": values, "embedding": vectors}
    with Path(path).open("w", encoding="utf-8") as file:
        file.write(json.dumps(made | {name: array.tolist() for name, array in found.items()}) + "\n")


def peak() -> int:
    """Largest resident memory of this process in bytes; `ru_maxrss` begins with the parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def main() -> None:
    if sys.argv[1] == "fixture":
        return fixture(sys.argv[2])
    side = {"ours": ours, "peer": peer}[sys.argv[1]]
    features = np.load(sys.argv[2])
    side(features[:200], 8, 8, 2)  # imports and first calls are not measured
    used, spent, started = peak(), time.process_time(), time.perf_counter()
    values, vectors, labels = side(features, NEIGHBOURS, EIGENPAIRS, CLUSTERS)
    seconds = time.perf_counter() - started
    processor, grown = time.process_time() - spent, peak() - used
    np.savez(sys.argv[3], values=values, vectors=vectors, labels=labels)
    print(json.dumps({"seconds": seconds, "processor": processor, "bytes": grown}))


if __name__ == "__main__":
    main()
