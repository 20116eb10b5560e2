"""Plain-text tables."""

from sb3_strl.common.tables import format_table


def test_columns_are_aligned_and_lines_have_no_tail() -> None:
    table = format_table("things", ("name", "n"), [("a", 1), ("longer name", 22)])
    assert table.splitlines() == [
        "things",
        "  name         n",
        "  -----------  --",
        "  a            1",
        "  longer name  22",
    ]


def test_an_empty_table_says_so() -> None:
    assert format_table("objectives", ("name",), []) == "objectives: none"
