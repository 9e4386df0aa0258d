"""Whether an empty member begins a new cluster with the listed ones, joins theirs, waits, or must not go on.

Rules (docs/cluster.md, "Forming, joining, leaving"):
* A cluster is formed when every listed member has answered "empty, same list", or when a majority has and the others stayed unreachable for
  `form_wait_ms` (None: every one is needed, for as long as it takes).
* What is formed follows from the list alone, so founders who saw different things begin the same cluster.
* A founder that decides first looks like a cluster to the others, and can elect nobody until a majority has decided. Its answer, a cluster
  of the very list in which nothing has happened (`founding`), therefore counts as "empty, same list".
* Any other cluster that a listed member has is joined.

Invariant: `Form` is decided on answers that are at most ANSWER_FRESH_MS old.
Must not know: how it is asked, files, clocks (`mono_ms` comes with each call).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from raftsched.store.asks import Answer, Empty, InCluster, Listed, hash_list
from raftsched.store.membership import ADD_NODE, encode_change, encode_json, make_cluster_id, make_member_id
from raftsched.types import MemberInfo

ANSWER_FRESH_MS: Final = 2_000
SAY_AGAIN_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again; `line` is for the log, "" = it was said already."""

    line: str


@dataclass(frozen=True, slots=True)
class Form:
    """Begin this cluster: the same members, sorted by id, whoever decides."""

    members: tuple[MemberInfo, ...]

    @property
    def cluster_id(self) -> int:
        return make_cluster_id(one.member_id for one in self.members)

    @property
    def entries(self) -> list[bytes]:
        """The first entries, index 1 …, term 1, all of them committed."""
        return [encode_change(ADD_NODE, one.member_id, encode_json(one)) for one in self.members]


@dataclass(frozen=True, slots=True)
class Join:
    """Ask this member to be taken in."""

    url: str
    cluster_id: int
    cluster_version: str = ""
    members: tuple[MemberInfo, ...] = field(default=(), compare=False)
    """Of that cluster, as the one that answered has them."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Waiting cannot mend it: the process ends with this line."""

    line: str


Decision = Wait | Form | Join | Refuse


def founders(listed: Iterable[Listed], cluster_token: str) -> tuple[MemberInfo, ...]:
    """The members of the cluster that this list begins, sorted by id; without names: nobody has started."""
    found = [MemberInfo(make_member_id(one.peer_urls, cluster_token), "", tuple(sorted(one.peer_urls)), ()) for one in listed]
    return tuple(sorted(found, key=lambda one: one.member_id))


@dataclass(slots=True)
class _Seen:
    """What is known of one other listed member."""

    listed: Listed
    silent_since_ms: int | None = None  # None: no ask has ended yet
    heard_ms: int = 0
    answer: Answer | None = None
    url: str = ""


class Forming:
    """See the module's text. `heard` and `unreachable` take any URL of a listed member."""

    def __init__(self, own: Listed, listed: Sequence[Listed], *, form_wait_ms: int | None, cluster_token: str) -> None:
        """`own` is one of `listed`, whose names and URLs are unique (config/cluster.py)."""
        if own not in listed:
            raise ValueError(f"{own.name} is not listed")
        self._own = own
        self._listed = tuple(sorted(listed))
        self._form_wait_ms = form_wait_ms
        self._hash = hash_list(listed, cluster_token)
        self.founding = Form(founders(listed, cluster_token))
        self._others = [_Seen(one) for one in self._listed if one != own]
        self._by_url = {url: seen for seen in self._others for url in seen.listed.peer_urls}
        self._joins = 0
        self._said = ("", -SAY_AGAIN_MS)

    @property
    def answer(self) -> Empty:
        """What this member answers while it is empty."""
        return Empty(self._own.name, self._hash, self._listed)

    def heard(self, url: str, answer: Answer | None, mono_ms: int) -> None:
        """`answer` None, or none of those to a `Look`: something else lives there, which is as good as nobody."""
        if not isinstance(answer, Empty | InCluster):
            self.unreachable(url, mono_ms)
            return
        if (seen := self._by_url.get(url)) is not None:
            seen.answer, seen.heard_ms, seen.url, seen.silent_since_ms = answer, mono_ms, url, None

    def unreachable(self, url: str, mono_ms: int) -> None:
        seen = self._by_url.get(url)
        if seen is None or (seen.answer is not None and seen.url != url and mono_ms - seen.heard_ms <= ANSWER_FRESH_MS):
            return  # it answers at another of its URLs
        seen.answer = None
        if seen.silent_since_ms is None:
            seen.silent_since_ms = mono_ms

    def decide(self, mono_ms: int) -> Decision:
        for seen in self._others:
            if seen.answer is not None and mono_ms - seen.heard_ms > ANSWER_FRESH_MS:
                seen.answer, seen.silent_since_ms = None, mono_ms
        refusal = self._contradiction()
        if refusal:
            return Refuse(refusal)
        clusters = [(seen, seen.answer) for seen in self._others if isinstance(seen.answer, InCluster) and not self._is_ours(seen.answer)]
        if clusters:
            return self._join(clusters, mono_ms)
        return self._form(mono_ms)

    @property
    def all_asked(self) -> bool:
        """Whether each of the others has answered or was not reached, at least once."""
        return all(seen.answer is not None or seen.silent_since_ms is not None for seen in self._others)

    # -- rules

    def _is_ours(self, answer: InCluster) -> bool:
        return answer.founding and answer.cluster_id == self.founding.cluster_id

    def _agrees(self, answer: Answer | None) -> bool:
        if isinstance(answer, InCluster):
            return self._is_ours(answer)
        return isinstance(answer, Empty) and answer.list_hash == self._hash

    def _join(self, clusters: list[tuple[_Seen, InCluster]], mono_ms: int) -> Decision:
        """Of two clusters one is an old member's that will refuse to serve, or both have lost their majority: this one does not choose."""
        told = {(answer.cluster_id, answer.incarnation): seen.listed.name for seen, answer in clusters}
        known = {cluster_id for cluster_id, incarnation in told if incarnation}
        told = {one: name for one, name in told.items() if one[1] or one[0] not in known}
        if len(told) > 1:
            which = ", ".join(f"{name} is in {cluster_name(one)}" for one, name in sorted(told.items()))
            return Wait(self._say(f"the listed members belong to different clusters ({which}): waiting until there is one", mono_ms))
        self._joins += 1
        seen, answer = clusters[self._joins % len(clusters)]
        return Join(seen.url, answer.cluster_id, answer.cluster_version, answer.members)

    def _form(self, mono_ms: int) -> Decision:
        missing = [seen for seen in self._others if not self._agrees(seen.answer)]
        if not missing:
            return self.founding
        differing = [seen for seen in missing if isinstance(seen.answer, Empty)]
        agreeing = len(self._listed) - len(missing)
        if not differing and agreeing > len(self._listed) // 2 and self._waited(missing, mono_ms):
            return self.founding
        return Wait(self._say(self._line(missing, differing, agreeing), mono_ms))

    def _waited(self, missing: list[_Seen], mono_ms: int) -> bool:
        if self._form_wait_ms is None:
            return False
        silent = [seen.silent_since_ms for seen in missing]
        return all(since is not None and mono_ms - since >= self._form_wait_ms for since in silent)

    # -- words

    def _contradiction(self) -> str:
        """What no waiting mends: another member at a listed URL, or one name or URL that two lists give to different members."""
        mine = {one.name: sorted(one.peer_urls) for one in self._listed}
        owners = {url: one.name for one in self._listed for url in one.peer_urls}
        for seen in self._others:
            if not isinstance(seen.answer, Empty):
                continue
            if seen.answer.name != seen.listed.name:
                return f"{seen.url} is listed as {seen.listed.name}, but {seen.answer.name} answers there"
            for one in seen.answer.listed:
                if one.name in mine and sorted(one.peer_urls) != mine[one.name]:
                    theirs, ours = ",".join(one.peer_urls), ",".join(mine[one.name])
                    return f"the lists contradict each other: {one.name} is {ours} here and {theirs} at {seen.listed.name}"
                for url in one.peer_urls:
                    if owners.get(url, one.name) != one.name:
                        return f"the lists contradict each other: {url} is {owners[url]} here and {one.name} at {seen.listed.name}"
        return ""

    def _line(self, missing: list[_Seen], differing: list[_Seen], agreeing: int) -> str:
        if differing:
            return "; ".join(self._difference(seen.listed.name, seen.answer) for seen in differing if isinstance(seen.answer, Empty))
        names = ", ".join(f"{seen.listed.name} ({','.join(seen.listed.peer_urls)})" for seen in missing)
        until = "all are needed" if self._form_wait_ms is None else f"a majority is enough after {self._form_wait_ms / 1000:g} s"
        return f"waiting for members of the new cluster: {names} not reached, {agreeing} of {len(self._listed)} agree; {until}"

    def _difference(self, name: str, answer: Empty) -> str:
        ours, theirs = {one.name for one in self._listed}, {one.name for one in answer.listed}
        if ours == theirs:
            return f"{name} has the same list of members, but another cluster token"
        parts = [f"it lacks {', '.join(sorted(ours - theirs))}"] if ours - theirs else []
        parts += [f"it has {', '.join(sorted(theirs - ours))} besides"] if theirs - ours else []
        return f"{name} has another list of members: {' and '.join(parts)}; waiting until the lists are the same"

    def _say(self, line: str, mono_ms: int) -> str:
        said, said_ms = self._said
        if line == said and mono_ms - said_ms < SAY_AGAIN_MS:
            return ""
        self._said = (line, mono_ms)
        return line


# -- a member with data


@dataclass(frozen=True, slots=True)
class GoOn:
    """Serve; `line` names whoever is of another cluster, "" = nobody."""

    line: str


def check_peers(own: InCluster, heard: Sequence[InCluster]) -> GoOn | Wait | Refuse:
    """Whether a member with data may serve, from what the members that it has stored answered (those that did, one answer each).

    They may have lost their disks and begun another cluster, even one of the same id. If a majority of the stored voters is of one other
    cluster this member refuses; if none has a majority, waiting costs nothing: nobody could be elected. Who is not heard decides nothing.
    """
    mine = (own.cluster_id, own.incarnation)
    votes: dict[tuple[int, int], list[str]] = {}
    for answer in (own, *heard):
        votes.setdefault((answer.cluster_id, answer.incarnation), []).append(answer.name)
    undecided = votes.pop((own.cluster_id, 0), [])  # they follow whoever leads
    if len(votes) <= 1 and (mine in votes or (own.incarnation == 0 and all(cluster_id == own.cluster_id for cluster_id, _ in votes))):
        return GoOn("")
    quorum = sum(not one.is_learner for one in own.members) // 2 + 1
    which = "; ".join(f"{', '.join(names)}: {cluster_name(one)}" for one, names in sorted(votes.items()) if one != mine)
    for one, names in votes.items():
        if len(names) + len(undecided) * (one[0] == own.cluster_id) >= quorum:
            if one == mine or (own.incarnation == 0 and one[0] == own.cluster_id):
                return GoOn(f"members of another cluster were met and are left alone ({which})")
            return Refuse(
                f"the data here belong to {cluster_name(mine)}, but the other members have begun another cluster ({which}): "
                "refusing to serve. Nothing was changed; to join theirs, move the data directory away"
            )
    return Wait(f"the data here belong to {cluster_name(mine)}, other members say otherwise ({which}): waiting for a majority")


def check_listed(own: InCluster, listed: Collection[Listed], heard: Sequence[InCluster], *, serving: bool = False) -> GoOn | Refuse:
    """Whether a member with data may serve, from what listed members answered that its cluster does not know.

    A directory of another cluster could be served by this member alone, as it was there, in the midst of members that share none of it.
    If the cluster of one of them has a majority of the list this member refuses; two clusters without one are told. `serving`: it does so
    already, and stops only if that cluster can serve: a single member that was started with old data must not end it.
    """
    mine, lines = cluster_name((own.cluster_id, own.incarnation)), []
    for answer in heard:
        if answer.cluster_id == own.cluster_id:
            continue
        theirs = _listed_voters(answer, listed)
        line = f"{answer.name}, which is listed, is in {cluster_name((answer.cluster_id, answer.incarnation))} with {', '.join(theirs)}"
        if has_majority(answer, listed) and not has_majority(own, listed) and (not serving or _is_there(answer, heard, theirs)):
            end = "not serving any more. What was written here stays here" if serving else "refusing to serve. Nothing was changed"
            return Refuse(f"the data here belong to {mine}, but {line}: {end}; to join theirs, move the data directory away")
        lines.append(line)
    return GoOn(f"the data here belong to {mine}, but {'; '.join(lines)}: two clusters will never be one" if lines else "")


def has_majority(one: InCluster, listed: Collection[Listed]) -> bool:
    """Whether its cluster has a majority of the list, by what it has stored: then no other one has."""
    return len(_listed_voters(one, listed)) > len(listed) // 2


def _listed_voters(one: InCluster, listed: Collection[Listed]) -> list[str]:
    urls = {url for member in one.members if not member.is_learner for url in member.peer_urls}
    return [entry.name for entry in listed if urls & set(entry.peer_urls)]


def _is_there(one: InCluster, heard: Sequence[InCluster], voters: Collection[str]) -> bool:
    """Whether those of its `voters` that answered can elect a leader."""
    there = {answer.name for answer in heard if answer.cluster_id == one.cluster_id and answer.name in voters}
    return len(there) > sum(not member.is_learner for member in one.members) // 2


def cluster_name(one: tuple[int, int]) -> str:
    """(cluster id, incarnation) in words."""
    return f"cluster {one[0]:x}" + (f" begun as {one[1]:x}" if one[1] else "")
