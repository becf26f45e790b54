"""What is shown of all hosts: written in place, and never read by half."""

from __future__ import annotations

import os

from mppool.shared import hosts_file


def test_what_was_written_last_is_read(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "hosts")
    assert hosts_file.read(path) == {}
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for known in ({"rows": [["a", 1]] * 50}, {"rows": []}, {"rows": [["b", 2]]}):
        hosts_file.write(fd, known)
        assert hosts_file.read(path) == hosts_file.read(fd) == known
    os.pwrite(fd, b"!", 12)
    assert hosts_file.read(path) == {}, "half of one and half of another"
    os.close(fd)
