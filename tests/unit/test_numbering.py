"""The ceiling of request ids: written before they are used, raised long before they are used up."""

import asyncio
from pathlib import Path

import pytest

from raftsched.errors import FatalError
from raftsched.store.codec import RequestIds
from raftsched.store.node import numbering
from raftsched.store.node.numbering import FILE_NAME, RESERVE, RETRY_MS, Numbering, read_ceiling

MEMBER, NOW_MS = 0xABCD1234, 1_700_000_000_000


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, message: str, /, **fields: object) -> None:
        self.lines.append(message)


async def test_the_file_is_raised_when_half_is_used(tmp_path: Path) -> None:
    ids = RequestIds(MEMBER, NOW_MS)
    one = Numbering(tmp_path, ids, Log())  # type: ignore[arg-type]
    assert read_ceiling(tmp_path) == 0
    await one.reserve(0)
    first = read_ceiling(tmp_path)
    assert ids.left(first) == RESERVE
    ids.take(RESERVE // 2)
    one.tick(500)
    await one.close()
    assert read_ceiling(tmp_path) == first, "half is left"
    ids.take()
    one.tick(1_000)
    one.tick(1_000)  # it is being written
    await one.close()
    assert ids.left(read_ceiling(tmp_path)) == RESERVE


async def test_a_process_begins_above_all_ids_of_the_last_one_whatever_its_clock_says(tmp_path: Path) -> None:
    last = 0
    for now_ms in (NOW_MS, NOW_MS - 3_600_000, 0):
        ids = RequestIds(MEMBER, now_ms)
        ids.skip_past(read_ceiling(tmp_path))
        await Numbering(tmp_path, ids, Log()).reserve(0)  # type: ignore[arg-type]
        assert ids.take() > last
        last = ids.take(RESERVE - 10) + RESERVE - 11
        assert last < read_ceiling(tmp_path)


async def test_ids_that_begin_anew_after_34_years_are_reserved_too(tmp_path: Path) -> None:
    ids = RequestIds(MEMBER, (1 << 40) - 1)
    one = Numbering(tmp_path, ids, Log())  # type: ignore[arg-type]
    await one.reserve(0)
    ids.take(300)
    one.tick(500)
    await one.close()
    assert ids.left(read_ceiling(tmp_path)) == RESERVE


async def test_a_disk_that_is_full_is_asked_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _text: str) -> None:
        raise OSError(28, "No space left on device")

    log = Log()
    one = Numbering(tmp_path, RequestIds(MEMBER, NOW_MS), log)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(numbering, "write_durably", full)
        await one.reserve(0)
        assert len(log.lines) == 1
    one.tick(RETRY_MS - 1)
    await asyncio.sleep(0.01)
    assert read_ceiling(tmp_path) == 0
    one.tick(RETRY_MS)
    await one.close()
    assert read_ceiling(tmp_path) > 0


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-1\n", b"1 2\n", b"caf\xc3", bytes(9), b"1" * 17])
def test_a_file_that_is_no_ceiling_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(FatalError, match=r"IDS is damaged: .*remove the file"):
        read_ceiling(tmp_path)
