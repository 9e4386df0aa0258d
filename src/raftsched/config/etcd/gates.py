"""etcd's feature gates: their names, defaults, and the text that sets them (etcd-api.md §8.1)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from raftsched.units import parse_bool

ALPHA: Final = MappingProxyType(
    {
        "CompactHashCheck": False,
        "InitialCorruptCheck": False,
        "LeaseCheckpoint": False,
        "LeaseCheckpointPersist": False,
        "PriorityRequest": False,
        "SetMemberLocalAddr": False,
        "StopGRPCServiceOnDefrag": False,
    }
)
BETA: Final = MappingProxyType({"FastLeaseKeepAlive": True, "TxnModeWriteWithSharedBuffer": True})
DEFAULTS: Final = MappingProxyType({**ALPHA, **BETA})
GROUPS: Final = {"AllAlpha": ALPHA, "AllBeta": BETA}
NOTES: Final = {
    "LeaseCheckpoint": "the remaining time of a lease is not checkpointed: a new leader gives each lease its whole time again",
    "LeaseCheckpointPersist": "the remaining time of a lease is not checkpointed",
    "PriorityRequest": "what frees space has precedence always, other requests have none",
    "SetMemberLocalAddr": "the system chooses the address that this member dials from",
    "StopGRPCServiceOnDefrag": "a defragmentation stops nobody here",
    "FastLeaseKeepAlive": "a keep-alive never waits for the applied index here",
    "TxnModeWriteWithSharedBuffer": "the store has no such buffer",
}
"""Why setting a gate has no effect."""


def parse(text: str) -> Mapping[str, bool]:
    """`A=true,B=false`: what was set, groups spread over their gates that are not set by themselves. ValueError with etcd's words."""
    given: dict[str, bool] = {}
    for part in text.split(","):
        if not part:
            continue
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals:
            raise ValueError(f"missing bool value for {name}")
        try:
            given[name] = parse_bool(value)
        except ValueError as error:
            raise ValueError(f"invalid value of {name}={value}, err: {error}") from None
    for name in given:
        if name not in DEFAULTS and name not in GROUPS:
            raise ValueError(f"unrecognized feature gate: {name}")
    spread = {one: given[group] for group, members in GROUPS.items() if group in given for one in members}
    return {**spread, **{name: value for name, value in given.items() if name in DEFAULTS}}


def ineffective(given: Mapping[str, bool]) -> list[tuple[str, bool, str]]:
    """(name, value, why) of each gate that is set to something else than its default."""
    return [(name, value, NOTES[name]) for name, value in sorted(given.items()) if value != DEFAULTS[name] and name in NOTES]
