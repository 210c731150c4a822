"""Seeds and numerics of a run: the same seed gives the same numbers on a CPU."""

from typing import Any

from kedro.framework.hooks import hook_impl


class ReproducibilityHooks:
    """Seed the global generators as a safety net; the package draws from named streams of its own."""

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Seed Python, NumPy and torch, and have GPUs convolve in float32: TF32 keeps three digits."""
        import random

        import numpy as np
        import torch

        seed = int((run_params.get("runtime_params") or {}).get("seed", 0))
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - for third-party code that draws from the global generator
        torch.manual_seed(seed)
        torch.backends.cudnn.allow_tf32 = False
