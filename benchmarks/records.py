"""The file that a benchmark leaves."""

import json
from collections.abc import Mapping
from pathlib import Path


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write JSON with one line for each entry of a list, so that versions of the file can be compared."""
    parts = []
    for key, value in record.items():
        lines = ",\n".join(f"  {json.dumps(entry)}" for entry in value) if isinstance(value, list) else ""
        parts.append(f" {json.dumps(key)}: " + (f"[\n{lines}\n ]" if lines else json.dumps(value)))
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
