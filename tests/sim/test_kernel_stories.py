"""A sound kernel comes unharmed out of the stories that a faulty one does not: the control of `scripts/mutate_kernel.py --sim`."""

import pytest
from kernel_stories import STORIES, tell


@pytest.mark.parametrize("name", STORIES)
def test_a_sound_kernel_comes_out_unharmed(name: str) -> None:
    report = tell(name, "kernel-0")
    assert not report.error
    assert report.entries > 20
