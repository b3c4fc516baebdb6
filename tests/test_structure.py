"""The house: imports point one way, light modules stay light, every setting is documented."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

from nml_ray.config.settings import Settings

ROOT = Path(__file__).parents[1]
ROOMS = (  # each may import those of earlier lines, and its own
    ("config",),
    ("storage",),
    ("data",),
    ("models",),
    ("tasks",),
    ("pretrain", "features", "heads"),
    ("sweep", "analysis"),
    ("reaper", "quiet", "node_watch", "token_check", "ray_environment"),
    ("session",),
    ("study", "cluster"),
    ("cli",),
)
LIGHT = (  # beginnings of module paths
    *(
        "config",
        "storage",
        "cluster",
        "cli",
        "session",
        "reaper",
        "quiet",
        "node_watch",
        "token_check",
        "ray_environment",
        "__init__",
        "data/draw",
        "data/order",
        "data/noise",
        "data/index",
    ),
    *("study/stage", "study/graph", "study/plan", "study/job"),
)
HEAVY = {"ray", "torch", "torchvision", "timm", "matplotlib", "pandas", "scipy", "sklearn"}


def imported(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, each with whether importing the file imports it too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    late |= {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively"
            base = str(node.module)
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "nml_ray" else [base]
            found += [(name, id(node) not in late) for name in names]
    return found


def modules() -> list[tuple[str, Path]]:
    """Every module of the package by its path below it, without suffix."""
    package = ROOT / "nml_ray"
    return [(path.relative_to(package).with_suffix("").as_posix(), path) for path in sorted(package.rglob("*.py"))]


def test_imports_point_one_way():
    rank = {room: number for number, line in enumerate(ROOMS) for room in line}
    wrong = []
    for module, path in modules():
        room = module.split("/")[0]
        if room in ("__init__", "__main__"):
            continue
        for name, _ in imported(path):
            target = [*name.split("."), ""][1] if name.startswith("nml_ray") else ""
            if target and target != room and rank[target] >= rank[room]:
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_light_modules_import_nothing_heavy():
    light = [(module, path) for module, path in modules() if module.startswith(LIGHT)]
    assert len(light) > 15
    wrong = [
        f"{module} imports {n}"
        for module, path in light
        for n, at_once in imported(path)
        if at_once and n.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_help_imports_neither_ray_nor_torch():
    code = (
        "import json, sys; from nml_ray.cli.main import call; code = call(['--help'])\n"
        "print(json.dumps([code, *sorted({name.split('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, *loaded = json.loads(done.stderr.splitlines()[-1])
    assert status == 0
    assert "Usage: nml-ray" in done.stdout
    assert not HEAVY & set(loaded)


def test_every_setting_is_documented():
    for module, _ in modules():
        if module.endswith("config") or module == "study/job":
            importlib.import_module("nml_ray." + module.replace("/", "."))
    pending, seen = [Settings], set()
    while pending:
        model = pending.pop()
        pending += model.__subclasses__()
        seen.add(model)
    models = {model for model in seen if model.__module__.startswith("nml_ray.")}
    assert len(models) > 10
    silent = [f"{m.__name__}.{name}" for m in models for name, field in m.model_fields.items() if not field.description]
    assert silent == []
