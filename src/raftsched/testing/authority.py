"""An authority for tests, in one directory: certificates, keys, revocation lists, made anew in place as an administrator would."""

import datetime
import os
import ssl
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

HOUR = datetime.timedelta(hours=1)


class Authority:
    """`ca.crt` lies in `folder` at once, `<name>.crt` and `<name>.key` after `issue`, `<name>.crl` after `revoke`."""

    def __init__(self, folder: Path, *, parent: "Authority | None" = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca: trustme.CA = parent.ca.create_child_ca() if parent is not None else trustme.CA()
        (parent or self).ca.cert_pem.write_to_path(folder / "ca.crt")

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> x509.Certificate:
        """With `name` as common name, for `hosts` (none = localhost, 127.0.0.1, ::1). Put in place as a whole, key first."""
        until = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC) if expired else None
        made = self.ca.issue_cert(*(hosts or ("localhost", "127.0.0.1", "::1")), common_name=name, not_after=until)
        chain = b"".join(one.bytes() for one in made.cert_chain_pems)
        for suffix, data in (("key", made.private_key_pem.bytes()), ("crt", chain)):
            temporary = self.folder / f"{name}.{suffix}.new"
            temporary.write_bytes(data)
            os.replace(temporary, self.folder / f"{name}.{suffix}")
        return x509.load_pem_x509_certificate(chain)

    def serial(self, name: str, position: int = 0) -> int:
        """Of a certificate in `<name>.crt`: 0 = its own, 1 = that of who has signed it."""
        return x509.load_pem_x509_certificates((self.folder / f"{name}.crt").read_bytes())[position].serial_number

    def revoke(self, list_name: str, *serials: int, pem: bool = False) -> str:
        """Writes the list; its path. It is out of date already, which etcd does not look at."""
        now = datetime.datetime.now(datetime.UTC)
        authority = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        made = x509.CertificateRevocationListBuilder().issuer_name(authority.subject).last_update(now - 2 * HOUR).next_update(now - HOUR)
        for serial in serials:
            made = made.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build())
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        form = serialization.Encoding.PEM if pem else serialization.Encoding.DER
        path = self.folder / f"{list_name}.crl"
        path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(form))  # type: ignore[arg-type]
        return str(path)

    def client_context(self, name: str = "", *, alpn: tuple[str, ...] = (), version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client's, which believes this authority and shows the certificate of `name`; `version` = that one alone."""
        context = ssl.create_default_context(cafile=self.path("ca.crt"))
        if name:
            context.load_cert_chain(self.path(f"{name}.crt"), self.path(f"{name}.key"))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context
