"""What the README reports is what the result files say."""

from __future__ import annotations

from pathlib import Path

from benchmarks.summary import accuracy_table, basics_table, comparison_table, onboard_table


def test_the_tables_of_the_readme_are_those_of_the_result_files(repository: Path) -> None:
    readme = (repository / "README.md").read_text()
    assert accuracy_table() in readme
    assert comparison_table() in readme
    assert basics_table() in readme
    assert onboard_table() in readme


def test_every_file_the_documents_show_exists(repository: Path) -> None:
    for document in [repository / "README.md", *(repository / "docs").glob("*.md")]:
        for part in document.read_text().split("](")[1:]:
            target = part.split(")")[0]
            assert (document.parent / target).exists(), f"{document.name} shows {target}"
