"""Files and folders that are whole or not there, and held by one process at a time."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from minicppo.files import atomically, kept, locked, reading, write_atomically


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


def test_what_a_killed_writer_left_is_swept_away_and_no_link_followed(tmp_path):
    mine = tmp_path / "folder.d" / "of mine"
    mine.mkdir(parents=True)
    (tmp_path / ".folder.9999999.abcdefgh" / "half").mkdir(parents=True)  # no process has this number
    (tmp_path / ".folder.9999999.ijklmnop").symlink_to(mine.parent)
    living = tmp_path / f".folder.{os.getpid()}.abcdefgh"
    living.mkdir()
    with atomically(tmp_path / "folder") as scratch:
        scratch.mkdir()
        (scratch / "whole").touch()
    living.rmdir()
    left = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))]
    assert left == ["folder", "folder/whole", "folder.d", "folder.d/of mine"]


def test_an_error_about_a_file_names_it(tmp_path):
    told = r"^\S+/x cannot be used: no 'key'\. Way out: look elsewhere$"
    with pytest.raises(ValueError, match=told), reading(tmp_path), reading(tmp_path / "x", "look elsewhere"):
        {}["key"]
    with pytest.raises(ValueError, match=r"/x cannot be used: two lines\. Way out: "), reading(tmp_path / "x"):
        raise ZeroDivisionError("two\n lines.")
    with pytest.raises(FileNotFoundError, match="No such file"), reading(tmp_path / "x"):
        (tmp_path / "x").read_text()


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


def test_a_full_disk_is_the_systems_error_whoever_says_so(tmp_path):
    def full(scratch):
        scratch.write_text("half")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match="No space left on device") as raised, atomically(tmp_path / "file") as scratch:
        full(scratch)
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="mine"), atomically(tmp_path / "file"):
        raise RuntimeError("mine")


def test_what_is_made_is_kept_until_its_sources_change(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, make = tmp_path / "source", mock.Mock(side_effect=lambda given: {"of": given})

    def is_made(given):
        make.reset_mock()
        assert kept("name", [source], make, given) == {"of": given}
        return make.called

    source.write_text("old")
    assert [is_made(given) for given in (1, 1, 2, 1)] == [True, False, True, False]
    source.write_text("new")
    assert [is_made(1), is_made(1)] == [True, False]
    for file in (tmp_path / "cache").rglob("name-*.json"):
        file.write_text("[")
    assert is_made(1), "what is damaged is made anew"
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # where no folder can be made
    assert is_made(1)
