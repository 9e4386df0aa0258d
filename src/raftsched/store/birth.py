"""How a member without data begins: as a founder, or empty, in a cluster that has it as a member already.

Invariant: all founders of one list write the same entries.
Must not know: how it was decided, disks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raftsched.store.asks import Listed
from raftsched.store.forming import Form, founders
from raftsched.store.membership import make_member_id


@dataclass(frozen=True, slots=True)
class Birth:
    """Identity and first entries; a member that joins has none."""

    member_id: int
    cluster_id: int
    entries: tuple[bytes, ...] = ()


def found(own_name: str, listed: Mapping[str, Sequence[str]], cluster_token: str) -> Birth:
    """The founder `own_name` of a cluster of `listed` (name -> peer URLs). Raises KeyError if it is not among them."""
    form = Form(founders([Listed(name, tuple(urls)) for name, urls in listed.items()], cluster_token))
    return Birth(make_member_id(listed[own_name], cluster_token), form.cluster_id, tuple(form.entries))
