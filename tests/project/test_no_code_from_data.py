"""Nothing that is read can run a program: the source calls nothing that runs what it is given.

Ruff's security rules (S), which run with the other rules, know most such calls; here stand those of the libraries that
read models, and that these rules are on and are excused one by one.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = sorted((ROOT / "src").rglob("*.py"))
# name of a call → why it may not stand anywhere
FORBIDDEN = {
    "eval": "runs a text",
    "exec": "runs a text",
    "compile": "makes code of a text",
    "__import__": "loads a module by a name from data",
    "torch.load": "unpickles",
    "joblib.load": "unpickles",
    "pickle.load": "unpickles",
    "pickle.loads": "unpickles",
    "os.system": "runs a shell",
}
# keyword of any call → the only value that it may have
ALLOWED = {"trust_remote_code": False, "allow_pickle": False, "weights_only": True, "shell": False}


def faults(source: str) -> Iterator[str]:
    """What a module calls that could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN:
            yield f"line {node.lineno}: {name} {FORBIDDEN[name]}"
        for keyword in node.keywords:
            wanted = ALLOWED.get(keyword.arg or "")
            if wanted is not None and ast.unparse(keyword.value) != str(wanted):
                yield f"line {node.lineno}: {name} has {keyword.arg}={ast.unparse(keyword.value)}"


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "torch.load(path)",
        "AutoModel.from_pretrained(source, trust_remote_code=trust)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_check_sees_what_it_is_for(line: str) -> None:
    assert len(list(faults(line))) == 1


def test_no_module_runs_what_it_reads() -> None:
    assert len(SOURCE) > 100
    wrong = [f"{path.relative_to(ROOT)}: {fault}" for path in SOURCE for fault in faults(path.read_text())]
    assert wrong == []


def test_every_model_is_loaded_without_code_of_its_repository() -> None:
    seen = 0
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.match(r"Auto\w+\.from_pretrained$", ast.unparse(node.func)):
                assert "trust_remote_code" in {keyword.arg for keyword in node.keywords}, (path, node.lineno)
                seen += 1
    assert seen >= 4


def test_security_rules_are_on_and_excused_with_a_reason() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("S")} == {"S101", "S311"}
    excused = [line for path in SOURCE for line in path.read_text().splitlines() if re.search(r"# noqa: S\d", line)]
    assert len(excused) == 7
