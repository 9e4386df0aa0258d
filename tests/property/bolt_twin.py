"""bbolt files, slowly: a writer and a reader as the format's description has them (etcd-api §3.2, appendix B), in memory."""

import struct
from collections.abc import Mapping, Sequence

MAGIC = 0xED0CDAED
NO_FREELIST = 2**64 - 1
FREELIST = 0x10

Pairs = Sequence[tuple[bytes, bytes]]


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return value


class Writer:
    """Any page size; buckets named in `inline` lie in their values if they are small; free pages and a list of them if asked for."""

    def __init__(self, page_bytes: int = 4096) -> None:
        self.page_bytes = page_bytes
        self.pages: list[bytes] = []
        self.next = 2

    @staticmethod
    def page(number: int, flags: int, elements: Sequence[tuple[int, bytes, bytes]], overflow: int = 0) -> bytes:
        """flags 2: (element flags, key, value); 1: (child, key, b"")."""
        heads, body, offset = bytearray(), bytearray(), 16 + 16 * len(elements)
        for index, (word, key, value) in enumerate(elements):
            at = 16 + 16 * index
            if flags == 2:
                heads += struct.pack("<IIII", word, offset - at, len(key), len(value))
            else:
                heads += struct.pack("<IIQ", offset - at, len(key), word)
            body += key + value
            offset += len(key) + len(value)
        return struct.pack("<QHHI", number, flags, len(elements), overflow) + bytes(heads) + bytes(body)

    def put(self, flags: int, elements: Sequence[tuple[int, bytes, bytes]]) -> int:
        size = len(self.page(0, flags, elements))
        count = max(1, -(-size // self.page_bytes))
        number = self.next
        self.next += count
        self.pages.append(self.page(number, flags, elements, count - 1).ljust(count * self.page_bytes, b"\0"))
        return number

    def tree(self, pairs: Pairs, flags: int = 0) -> int:
        level: list[tuple[int, bytes]] = []
        current: list[tuple[int, bytes, bytes]] = []
        size = 16
        for key, value in pairs:
            room = 16 + len(key) + len(value)
            if current and size + room > self.page_bytes:
                level.append((self.put(2, current), current[0][1]))
                current, size = [], 16
            current.append((flags, key, value))
            size += room
        level.append((self.put(2, current), current[0][1] if current else b""))
        while len(level) > 1:
            above: list[tuple[int, bytes]] = []
            current, size = [], 16
            for number, key in level:
                if len(current) >= 2 and size + 16 + len(key) > self.page_bytes:
                    above.append((self.put(1, current), current[0][1]))
                    current, size = [], 16
                current.append((number, key, b""))
                size += 16 + len(key)
            above.append((self.put(1, current), current[0][1]))
            level = above
        return level[0][0]

    def finish(self, buckets: Mapping[bytes, Pairs], *, inline: frozenset[bytes] = frozenset(), free: int = 0, txid: int = 2) -> bytes:
        """`free`: so many pages in a stored list of free ones. The metas are those of `txid` and the one before."""
        roots = []
        for name in sorted(buckets):
            page = self.page(0, 2, [(0, key, value) for key, value in buckets[name]])
            if name in inline and len(page) <= self.page_bytes // 4:
                roots.append((name, struct.pack("<QQ", 0, 0) + page))
            else:
                roots.append((name, struct.pack("<QQ", self.tree(buckets[name]), 0)))
        root, freelist = self.tree(roots, 1), NO_FREELIST
        if free:
            first = self.next
            self.pages += [b"\xaa" * self.page_bytes] * free  # whatever was there
            self.next += free
            freelist = self.next
            listed = struct.pack(f"<QHHI{free}Q", freelist, FREELIST, free, 0, *range(first, first + free))
            self.pages.append(listed.ljust(self.page_bytes, b"\0"))
            self.next += 1
        metas = b"".join(self.meta(index, root, freelist, txid - (txid - index) % 2) for index in (0, 1))
        return metas + b"".join(self.pages)

    def meta(self, index: int, root: int, freelist: int, txid: int) -> bytes:
        body = struct.pack("<IIIIQQQQQ", MAGIC, 2, self.page_bytes, 0, root, 0, freelist, self.next, txid)
        page = struct.pack("<QHHI", index, 4, 0, 0) + body + struct.pack("<Q", fnv1a(body))
        return page.ljust(self.page_bytes, b"\0")


def read(data: bytes) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """Everything in a file that is whole. AssertionError for what the format does not allow."""
    metas = []
    for offset in (0, 4096):
        body = data[offset + 16 : offset + 80]
        magic, version, page_bytes, _, root, _, _, count, txid, told = struct.unpack("<IIIIQQQQQQ", body)
        assert (magic, version, page_bytes) == (MAGIC, 2, 4096)
        assert told == fnv1a(body[:56])
        assert len(data) >= count * page_bytes
        metas.append((txid, root, count))
    _, root, count = max(metas)
    seen: set[int] = set()
    buckets = {}
    for name, value, flags in _tree(data, root, count, seen):
        assert flags == 1
        inner = _tree(data, struct.unpack("<QQ", value)[0], count, seen)
        assert all(flag == 0 for _, _, flag in inner)
        buckets[name] = [(key, one) for key, one, _ in inner]
        keys = [key for key, _ in buckets[name]]
        assert keys == sorted(set(keys))
    assert list(buckets) == sorted(buckets)
    assert seen == set(range(2, count)), "each page is reachable, once"
    return buckets


def _tree(data: bytes, number: int, count: int, seen: set[int]) -> list[tuple[bytes, bytes, int]]:
    page = data[number * 4096 :]
    told, flags, elements, overflow = struct.unpack("<QHHI", page[:16])
    assert told == number
    assert number + overflow < count
    assert not seen & set(range(number, number + overflow + 1))
    seen |= set(range(number, number + overflow + 1))
    page = page[: (overflow + 1) * 4096]
    found: list[tuple[bytes, bytes, int]] = []
    for index in range(elements):
        at = 16 + 16 * index
        if flags == 2:
            word, position, key_bytes, value_bytes = struct.unpack("<IIII", page[at : at + 16])
            key = page[at + position : at + position + key_bytes]
            found.append((key, page[at + position + key_bytes : at + position + key_bytes + value_bytes], word))
        else:
            assert flags == 1
            position, key_bytes, child = struct.unpack("<IIQ", page[at : at + 16])
            below = _tree(data, child, count, seen)
            assert below[0][0] == page[at + position : at + position + key_bytes]
            found += below
    return found
