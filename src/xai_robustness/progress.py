"""One progress line for long work, with rate and time left; silent when standard error is not a terminal."""

from tqdm import tqdm


def progress(total: int, description: str, unit: str = "img", done: int = 0) -> "tqdm":
    """Return a tqdm bar to be used as a context manager; call `.update(n)` on it.

    Args:
        total: units of work in all.
        description: what is being done, a few words.
        unit: name of one unit, shown as `unit/s`.
        done: units that an earlier, interrupted run has finished.
    """
    return tqdm(total=total, desc=description, unit=unit, initial=done, disable=None, leave=False, dynamic_ncols=True)
