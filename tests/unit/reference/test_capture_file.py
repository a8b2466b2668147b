from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.capture_file import load, prepare_captures
from reference.errors import ReferenceFailed
from reference.simulate import captures

if TYPE_CHECKING:
    from pathlib import Path


def test_file_holds_the_captures_of_its_seed(tmp_path: Path) -> None:
    """What is read is what the simulator drew, in the documented arrays."""
    path = prepare_captures(tmp_path, 3, seed=4)
    expected, found = captures(4, 3), load(path)
    assert np.array_equal(found.iq, expected.iq)
    assert np.array_equal(found.position_deg, expected.position_deg)
    with np.load(path) as archive:
        assert sorted(archive.files) == ["iq", "latitude", "longitude"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    """A file that holds no captures is a one-line error that names it."""
    path = tmp_path / "captures.npz"
    path.write_bytes(content)
    with pytest.raises(ReferenceFailed, match=r"captures\.npz holds no captures"):
        load(path)
