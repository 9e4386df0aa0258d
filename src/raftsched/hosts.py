"""Names and addresses of hosts, as texts."""

from ipaddress import ip_address


def is_address(host: str) -> bool:
    """Whether it is an IP address, without brackets, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this host reaches what listens there; "" is all interfaces."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)
