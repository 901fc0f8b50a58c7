"""Files and folders that are whole or not there, and held by one process at a time."""

from pathlib import Path

import pytest

from minicppo.files import atomically, locked, write_atomically


def test_a_writer_that_fails_leaves_the_old_content_and_nothing_beside(tmp_path):
    def fail(path, make):
        with atomically(path) as scratch:
            make(scratch)
            raise ZeroDivisionError

    write_atomically(tmp_path / "file", b"old")
    for name, make in (("file", Path.touch), ("folder", Path.mkdir)):
        with pytest.raises(ZeroDivisionError):
            fail(tmp_path / name, make)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".folder.tmp" / "half").touch()
    with atomically(tmp_path / "folder") as scratch:
        scratch.mkdir()
        (scratch / "whole").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["folder", "folder/whole"]


def test_of_several_writers_of_the_same_folder_the_first_counts(tmp_path):
    with atomically(tmp_path / "folder", shared=True) as second:
        second.mkdir()
        (second / "second").touch()
        with atomically(tmp_path / "folder", shared=True) as first:
            first.mkdir()
            (first / "first").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["first"]


def test_a_folder_is_held_by_one(tmp_path):
    with locked(tmp_path, "process: wait"), pytest.raises(BlockingIOError, match="by another process: wait"):
        locked(tmp_path, "process: wait").__enter__()
    with locked(tmp_path, "process: wait"):
        pass
