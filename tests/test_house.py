"""The house: imports only go down, files stay small, and nothing hides.

Floors, lowest first. A room may import rooms of a lower floor, and its own files.
"""

import ast
import pathlib

import pytest

FLOORS = (
    {"compat", "config", "costs", "shares", "trees"},
    {"checkpoint", "decode", "launch", "layers", "objectives", "optimizers", "report", "scores"},
    {"adapt", "convert", "data", "models", "sharding"},
    {"recipe"},
    {"drawing", "evaluate", "hearing", "matching", "writing"},
    {"scoring"},
    {"train"},
    {"plan", "run", "sweep"},
    {"harness", "launching", "reporting", "weights"},
    {"commands"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS, start=1) for room in rooms}

ROOT = pathlib.Path(__file__).parent.parent
HOUSE = sorted(ROOT.glob("bigmodel/**/*.py"))
FOLDERS = ("bigmodel", "tests", "configs", "benchmarks", "experiments")
FILES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))
# Of the house a quarter is the plan, which a training run never imports; of the rest a third is
# what families bring: each a model, an objective, and the kind of data that it is trained on. A
# twentieth are tables of names: the families of others, read and written; another, what starts
# jobs on clusters and keeps them from hanging.
LINES_OF_A_FILE, LINES_OF_THE_HOUSE = 320, 44_100
NAMELESS = {"base", "common", "helpers", "misc", "util", "utils"}
OUTSIDE = {"configs", "experiments", "tests", "benchmarks"}


def by_path(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", HOUSE, ids=by_path)
def test_imports_only_go_down(path):
    assert not breaches(path.relative_to(ROOT), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("layers/a.py", "import bigmodel.sharding.rules", "imports bigmodel.sharding (floor 3)"),
        ("layers/a.py", "import bigmodel.models as m", "imports bigmodel.models"),
        ("layers/a.py", "from bigmodel import config, train", "imports bigmodel.train (floor 7)"),
        (
            "layers/a.py",
            "from bigmodel.optimizers import x",
            "imports bigmodel.optimizers (floor 2)",
        ),
        ("layers/a.py", "from ..models import x", "imports bigmodel.models"),
        ("layers/a.py", "from .. import models", "imports bigmodel.models"),
        ("layers/a.py", "def f():\n  from bigmodel.run import x", "imports bigmodel.run"),
        ("models/a.py", "def f():\n  import bigmodel.recipe", "imports bigmodel.recipe"),
        ("run.py", "from bigmodel import plan", "imports bigmodel.plan"),
        ("layers/a.py", "from bigmodel.attic import x", "bigmodel.attic, a room without a floor"),
        ("attic.py", "", "attic is a room without a floor"),
        ("run.py", "import configs.gpt", "imports configs"),
        ("run.py", "from tests import conftest", "imports tests"),
        ("run.py", "assert x", "line 1: assert is for tests"),
        ("run.py", "y = config.get('x', 3)", "line 1: a default hides in get"),
        ("run.py", "y = self.loaded.config.get('x', 3)", "line 1: a default hides in get"),
    ],
)
def test_a_planted_breach_is_found(path, text, words):
    found = breaches(pathlib.Path("bigmodel", path), text)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "import bigmodel\nfrom bigmodel import config, layers\nfrom bigmodel.layers.norm import x",
        "from . import norm\nfrom .norm import x\nimport bigmodelling",
        "d.get('x', 3)",
    ],
)
def test_what_is_allowed_is_no_breach(text):
    assert breaches(pathlib.Path("bigmodel/layers/a.py"), text) == []


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_a_file_is_small_and_says_what_it_holds(path):
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= LINES_OF_A_FILE, f"{lines} lines: split it, {LINES_OF_A_FILE} are allowed"
    assert path.stem not in NAMELESS, f"{path.stem} says nothing: name the file for what it holds"
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "begin with a docstring on what the file holds"


def test_rooms_have_names_and_the_house_stays_small():
    assert not NAMELESS & {path.parent.name for path in HOUSE}
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in HOUSE)
    assert lines <= LINES_OF_THE_HOUSE


def breaches(path, text):
    """Sentences on what is wrong with a file of the house."""
    room = path.with_suffix("").parts[1]
    tree = ast.parse(text)
    found = list(habits(path, tree))
    if room == "__init__":  # the door of the package: every room may stand there, by name
        return found
    if room not in FLOOR:
        return [*found, f"{path}: {room} is a room without a floor: give it one in FLOORS."]
    for module in dict.fromkeys(imports(path, tree)):
        top, _, rest = module.partition(".")
        other = rest.split(".")[0]
        if top in OUTSIDE:
            found.append(f"{path} imports {top}, and the library never does.")
        elif top == "bigmodel" and other and other not in FLOOR:
            found.append(f"{path} imports bigmodel.{other}, a room without a floor in FLOORS.")
        elif top == "bigmodel" and other and other != room and FLOOR[other] >= FLOOR[room]:
            found.append(
                f"{path} (floor {FLOOR[room]}) imports bigmodel.{other} (floor {FLOOR[other]});"
                " imports only go down."
            )
    return found


def imports(path, tree):
    """Modules as "bigmodel.room", from every form of import, inside functions too."""
    package = path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module == "bigmodel":
                yield from (f"bigmodel.{alias.name}" for alias in node.names)
            else:
                yield module


def habits(path, tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"{path}, line {node.lineno}: assert is for tests; raise an error that helps."
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and len(node.args) + len(node.keywords) > 1
            and getattr(node.func.value, "attr", getattr(node.func.value, "id", "")) == "config"
        ):
            yield f"{path}, line {node.lineno}: a default hides in get; every option is a field."
