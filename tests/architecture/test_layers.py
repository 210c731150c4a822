import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = """
[importlinter]
root_package = demo
[importlinter:contract:1]
name = layers
type = layers
layers =
    demo.high
    demo.low
"""


def lint(folder: Path) -> subprocess.CompletedProcess:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_layers_hold():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


def test_the_layer_check_can_fail(tmp_path):
    package = tmp_path / "demo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "high.py").write_text("x = 1\n")
    (package / "low.py").write_text("from demo.high import x\n")
    (tmp_path / ".importlinter").write_text(RULES)
    assert lint(tmp_path).returncode != 0
