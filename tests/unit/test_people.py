"""The list of people who may log in at an identity provider."""

from pathlib import Path

import pytest

from src.access import Role
from src.panel.access import people
from src.panel.access.tokens import write_private


def test_an_address_counts_more_than_a_pattern_and_the_first_pattern_more_than_others(
    home: Path,
) -> None:
    text = 'Ann@Lab.org: edit\n"*@lab.org": read\n"*@*.org": edit\n'
    assert people.listed() == {} and people.role_of("ann@lab.org") is None
    write_private(people.file(), text)
    for address, may in {
        "ann@lab.org": Role.EDIT, "ANN@lab.ORG": Role.EDIT, "bob@lab.org": Role.READ,
        "eve@else.org": Role.EDIT, "eve@lab.org.evil.com": None, "ann": None, "": None,
    }.items():  # fmt: skip
        assert people.role_of(address) is may, address
    write_private(people.file(), "bob@lab.org: edit\n")
    assert people.role_of("ann@lab.org") is None and people.role_of("bob@lab.org") is Role.EDIT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "lists addresses and what they may do, as in `ann@lab.org: edit`"),
        ("- ann@lab.org", "lists addresses and what they may do"),
        ("ann@lab.org: owner", "lists addresses and what they may do"),
        ("ann@lab.org: true", "lists addresses and what they may do"),
        ("ann@lab.org: [edit]", "lists addresses and what they may do"),
        ('"*": edit', "lists addresses and what they may do"),
        ("7: edit", "lists addresses and what they may do"),
        ("*@lab.org: read", "is no YAML: "),
        ("\udcff", "is no text: "),
    ],
)
def test_a_list_that_is_none_is_a_sentence_and_lets_nobody_in(
    home: Path, text: str, why: str
) -> None:
    write_private(people.file(), "ann@lab.org: edit")
    people.file().write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(people.PeopleError, match=why) as told:
        people.listed()
    assert "\n" not in str(told.value)
    assert people.role_of("ann@lab.org") is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_list_to_which_others_may_add_lets_nobody_in(home: Path, mode: int) -> None:
    write_private(people.file(), "ann@lab.org: edit")
    people.file().chmod(mode)
    with pytest.raises(people.PeopleError, match="others may add people to .*: `chmod 600 "):
        people.listed()
    assert people.role_of("ann@lab.org") is None
