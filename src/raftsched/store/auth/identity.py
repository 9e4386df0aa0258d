"""An identity as the log carries it: fields of RequestHeader in front of each request of its owner."""

from functools import lru_cache

from raftsched.store.codec import identity_fields
from raftsched.types import Identity


@lru_cache(1_024)
def wire_identity(identity: Identity) -> bytes:
    """What `codec.wrap` takes; empty for nobody."""
    return identity_fields(identity.name.encode(), identity.revision)
