"""A DNS server for tests: a few names on a loopback port, nothing else exists."""

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Self

import dns.message
import dns.rcode
import dns.rrset


class DnsServer:
    """Answers on a loopback port; `zone`: name -> (kind, text)."""

    def __init__(self, zone: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        self._zone = zone
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            name = query.question[0].name.to_text()
            kind, texts = self._zone.get(name, ("", ()))
            if texts:
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *texts))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), sender)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
