import pytest

from harness.errors import DataError
from harness.models.file import build
from harness.modules import load_module

SOURCE = """
from torch import nn


class Rec(nn.Module):
    def __init__(self, n_users, n_items, hidden=4):
        super().__init__()
        self.users = nn.Embedding(n_users, hidden)
        self.items = nn.Embedding(n_items, hidden)


def from_schema(schema, size=3):
    return nn.Linear(len(schema.fields), size)


def no_module(n_users):
    return n_users


def failing(n_users):
    raise TypeError("size is needed")
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(SOURCE)
    return str(path)


def test_sizes_and_parameters_are_filled_in(tiny, path):
    module = build(tiny.schema, path=path, attribute="Rec", parameters={"hidden": 6})
    assert module.users.weight.shape == (41, 6)  # unknown row included
    assert module.items.weight.shape == (31, 6)
    assert build(tiny.schema, path=path, attribute="from_schema").in_features == 6


def test_given_sizes_win(tiny, path):
    module = build(tiny.schema, path=path, attribute="Rec", parameters={"n_users": 50})
    assert module.users.num_embeddings == 50


@pytest.mark.parametrize(
    ("attribute", "parameters", "message"),
    [
        ("Rek", {}, r"has no 'Rek'; did you mean 'Rec'"),
        ("Rec", {"hiden": 3}, r"Rec has no parameter 'hiden'; did you mean 'hidden'"),
        ("no_module", {}, r"no_module gave int, expected a torch module"),
        ("failing", {}, r"failing\(\.\.\.\) can't be made: size is needed"),
    ],
)
def test_mistakes_are_named(tiny, path, attribute, parameters, message):
    with pytest.raises(DataError, match=message):
        build(tiny.schema, path=path, attribute=attribute, parameters=parameters)


def test_a_missing_file_is_named(tiny, tmp_path):
    with pytest.raises(DataError, match=r"none\.py: no such Python file"):
        build(tiny.schema, path=str(tmp_path / "none.py"), attribute="Rec")


@pytest.mark.parametrize(
    "source",
    ["def broken(:\n", "import not_there_at_all\n", "x = unknown_name\n", "import os\nos.q\n"],
)
def test_a_file_that_does_not_import_is_named(tiny, tmp_path, source):
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(DataError, match=r"broken\.py: can't be imported"):
        build(tiny.schema, path=str(path), attribute="Rec")


def test_nothing_is_left_beside_the_users_file(rec_artifact, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    before = sorted(path.name for path in rec_artifact.folder.iterdir())
    load_module(rec_artifact)
    assert sorted(path.name for path in rec_artifact.folder.iterdir()) == before
