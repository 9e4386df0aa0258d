"""Bytes changed as the fuzzers of the gateway and of the services change them."""


def mutate(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """`(kind, position, bytes)` each: flip, cut, repeat, insert, or drop."""
    text = bytearray(data)
    for kind, position, extra in changes:
        at = position % (len(text) + 1)
        if kind == "flip":
            for offset, byte in enumerate(extra[: len(text) - at]):
                text[at + offset] ^= byte
        elif kind == "cut":
            del text[at:]
        elif kind == "repeat":
            text[at:at] = text[at : at + 40]
        elif kind == "insert":
            text[at:at] = extra
        else:
            del text[at : at + len(extra)]
    return bytes(text)
