"""Recipes of others: large, deep, tagged, hidden, misleading; one short sentence with its place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.document import MAX_BYTES, MAX_NODES, read_document
from harness.errors import MOST, RecipeError
from harness.loading import load_recipes
from harness.recipe import check_name
from harness.visible import LONGEST

BASELINE = """\
schema_version: 1
name: base
dataset: {generated: {}}
model: {mlp: {dim: 4, widths: [8]}}
"""
RECIPE = """\
schema_version: 1
name: half
baseline: base
stages:
  - prune_channels: {ratio: 0.5}
targets: [ort-cpu]
"""


@pytest.fixture
def told(tmp_path: Path):
    """``told(text)``: what loading a recipe of that text ends with, and nothing else."""
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "base.yaml").write_text(BASELINE)

    def load(text: str) -> str:
        path = tmp_path / "r.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(RecipeError) as caught:
            load_recipes([path])
        text = str(caught.value)
        assert f"{path}:" in text
        assert len(text) < (MOST + 1) * (LONGEST + 100)
        return text.replace(str(tmp_path), "")

    return load


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * (MAX_BYTES - 10),
        "{" * (MAX_BYTES - 10),
        "- " * 90_000,
        "? " * 90_000,
        "".join(" " * k + "a:\n" for k in range(300)),
        "a: [" + "x," * 99_000 + "]",
        "".join(f"k{k}: 1\n" for k in range(20_000)),
        "".join(f"k{k}: &a{k} 1\n" for k in range(12_000)),
        "a: &a [*a, *a]\n",
    ],
    ids=["flow", "maps", "dashes", "keys", "blocks", "wide", "many keys", "anchors", "itself"],
)
def test_depth_and_number_of_values_are_bounded(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    document = read_document(path)
    assert [p.message.partition(":")[0] for p in document.problems] == ["too large"]
    assert document.nodes <= MAX_NODES


def test_reading_stops_at_the_first_value_too_many(tmp_path: Path) -> None:
    """What stands behind isn't even looked at: that it is no YAML goes unsaid."""
    path = tmp_path / "r.yaml"
    path.write_text("- x\n" * (2 * MAX_NODES + 1) + "}} \t: !")
    (problem,) = read_document(path).problems
    assert problem.message.startswith("too large")
    assert problem.line == 2 * MAX_NODES  # the list itself is a value too


@pytest.mark.parametrize("text", ["~", "null\n", "&a:", "--- \n...\n"])
def test_a_file_of_nothing_is_no_recipe(told, text: str) -> None:
    assert "the file is empty" in told(text)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("!!python/object/apply:os.system ['touch MARK']\n", "python/object/apply:os.system"),
        (RECIPE + "description: !!set {a, b}\n", "2002:set"),
        (RECIPE + "description: !!omap [a: 1]\n", "2002:omap"),
        (RECIPE + "description: !!binary aGk=\n", "2002:binary"),
        (RECIPE.replace("{ratio", "!!python/name:os.system {ratio"), "python/name:os.system"),
    ],
)
def test_tags_of_any_kind_are_refused(told, text: str, tag: str) -> None:
    assert f"{tag}' isn't allowed; write a plain value" in told(text)


@pytest.mark.parametrize(
    ("new", "character"),
    [
        ('name: "\\0"', "U+0000"),
        ('name: "a\\e[31m"', "U+001B"),
        ('name: "\\ud800"', "U+D800"),
        ("name: a\u202eb", "U+202E"),
        ("name: a\u2066b", "U+2066"),
        ('name: {"a\\a": 1}', "U+0007"),
        ("name: x\u009by", "U+009B"),
        ("name: x\0y", "U+0000"),
    ],
)
def test_characters_that_cant_be_seen_are_refused_by_number(told, new: str, character: str) -> None:
    text = told(RECIPE.replace("name: half", new))
    assert character in text
    assert all(sign.isprintable() for sign in text.replace("\n", ""))
    assert "r.yaml:2: " in text


@pytest.mark.parametrize(
    ("old", "new", "letter"),
    [
        ("ratio", "rati\u043e", "'\u043e' (CYRILLIC SMALL LETTER O); did you mean 'ratio'?"),
        (
            "ort-cpu",
            "\u03bfrt-cpu",
            "'\u03bf' (GREEK SMALL LETTER OMICRON); did you mean 'ort-cpu'?",
        ),
        ("targets", "t\u0430rgets", "'\u0430' (CYRILLIC SMALL LETTER A); did you mean 'targets'?"),
        ("prune_channels", "prune\uff3fchannels", "'\uff3f' (FULLWIDTH LOW LINE); did you mean"),
    ],
)
def test_letters_that_look_like_others_are_named(told, old: str, new: str, letter: str) -> None:
    assert letter in told(RECIPE.replace(old, new))


@pytest.mark.parametrize(
    "number",
    ["0x" + "f" * 400, "9" * 400, "9" * 5000, "0x" + "f" * 5000, "1e300", "9007199254740993"],
    ids=["hex", "digits", "many digits", "much hex", "float", "2^53 + 1"],
)
@pytest.mark.parametrize("place", ["seed: {}", "bench: {{candidates: {}}}", "schema_version: {}"])
def test_numbers_out_of_range_are_one_sentence(told, number: str, place: str) -> None:
    base = RECIPE.replace("schema_version: 1\n", "") if "schema" in place else RECIPE
    assert told(base + place.format(number) + "\n")


def test_what_is_long_is_told_by_its_ends(told) -> None:
    text = told(RECIPE.replace("0.5", "x" * 100_000))
    assert "expected a number, got str 'xxx" in text
    assert "characters left out) ... x" in text


def test_many_mistakes_are_counted(told) -> None:
    lines = told(RECIPE + "".join(f"k{k}: 1\n" for k in range(MOST + 50))).splitlines()
    assert len(lines) == MOST + 1
    assert lines[-1] == "and 50 more"


@pytest.mark.parametrize(
    "name", ['"a\\nb"', "b" * 5000, "../../../../etc/passwd", "/etc/passwd", '"x/../y.yaml"', "."]
)
def test_a_baseline_of_any_name_is_looked_for_and_no_more(told, name: str) -> None:
    assert "no baseline" in told(RECIPE.replace("baseline: base", f"baseline: {name}"))


def test_yaml_1_1_has_no_other_booleans(told) -> None:
    text = told("%YAML 1.1\n---\n" + RECIPE.replace("[ort-cpu]", "[{ort-cpu: {require: yes}}]"))
    assert "require: expected true or false" in text


@given(st.text(min_size=1))
def test_a_name_is_refused_or_a_plain_file_name(name: str) -> None:
    plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if plain and len(name) < 80 and name[0].isalnum() and len(name) > 4:  # no device's name
        assert check_name(name) == Path(name).name == name
    elif not plain:
        with pytest.raises(ValueError, match="can't be a name"):
            check_name(name)
