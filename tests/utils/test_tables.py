"""CSV files and tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.tables import read_rows, text_table, write_rows

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(
    ["a,b", 'say "hi"', " lead", "trail ", "é 東京", "'", '"', ",", "line\nbreak", ""]
)


@given(st.lists(st.tuples(texts, texts), max_size=6))
def test_round_trip(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    rows = [{"one": one, "two": two} for one, two in pairs]
    write_rows(path, ("one", "two"), rows)
    assert read_rows(path, ("one", "two")) == rows


def test_the_file_is_plain(tmp_path):
    path = tmp_path / "new" / "a.csv"
    write_rows(path, ("a", "b", "c"), [{"a": 1, "c": 0.5}, {"b": "x,y"}])
    assert path.read_bytes() == b'a,b,c\n1,,0.5\n,"x,y",\n'
    assert read_rows(path, ("a",))[1] == {"a": "", "b": "x,y", "c": ""}


def test_a_column_that_was_not_named_is_a_defect(tmp_path):
    with pytest.raises(ValueError, match="fieldnames"):
        write_rows(tmp_path / "a.csv", ("a",), [{"a": 1, "b": 2}])
    assert list(tmp_path.iterdir()) == []


def test_other_editors_files_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffx,extra,name\r\n1,e,ä\r\n2,e,b".encode())
    rows = read_rows(path, ("name", "x"))
    assert [(row["name"], row["x"]) for row in rows] == [("ä", "1"), ("b", "2")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the first line lacks a, b"),
        (b"a,c\n1,2\n", r"the first line lacks b: .*a,b"),
        (b"a,b\n1,2\n3\n", "line 3: 2 values are needed"),
        (b"a,b\n1,2\n3,4,5\n6,7\n", "line 3: 2 values are needed"),
        (b"a,b\n\n1,2\n", "line 2: 2 values are needed"),
        (b'a,b\n"1\n1",2\n3\n', "line 4: 2 values are needed"),
        (b'a,b\n1,2\n3,"4', "line 3: not readable as CSV"),
        (b'a,b\n"1"x,2\n', "line 2: not readable as CSV"),
        ("a,b\né,2\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_faults_name_the_file_and_the_line(tmp_path, content, told):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as raised:
        read_rows(path, ("a", "b"))
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        read_rows(tmp_path / "none.csv", ("a",))


def test_text_table():
    text = text_table(["name", "S"], [["dense", "0.9"], ["p", "10.25"]])
    assert text.split("\n") == [
        "name       S",
        "------------",
        "dense    0.9",
        "p      10.25",
    ]
    assert text_table(["a", "b"], []) == "a  b\n----"
