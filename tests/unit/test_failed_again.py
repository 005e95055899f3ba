"""Names of failed tests as pytest takes them."""

from __future__ import annotations

from tests.failed_again import names_of


def test_tests_of_the_folders_are_selected_and_lose_their_groups() -> None:
    failed = [
        "tests/labs/test_podman.py::test_it[privileged]@/clone/tests/labs/test_podman.py",
        "tests/labs/test_mail.py::test_address[a@b]",
        "tests/labs/test_group.py::test_address[a@b]@group",
        "tests/unit/test_names.py::test_name",
    ]
    assert names_of(failed, ["tests/labs/", "tests/kernel"]) == [
        "tests/labs/test_group.py::test_address[a@b]",
        "tests/labs/test_mail.py::test_address[a@b]",
        "tests/labs/test_podman.py::test_it[privileged]",
    ]
    assert names_of(failed, ["tests/kernel"]) == []
