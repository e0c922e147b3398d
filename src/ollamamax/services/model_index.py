"""Which members offer which model, so that a decision looks at those alone, however many there are."""

from collections.abc import Collection
from typing import Final

from ollamamax.services.members import Member

_NOBODY: Final[dict[Member, None]] = {}


class ModelIndex:
    """Kept by the Fleet: `update` after each change of a member's models, `drop` when it leaves."""

    def __init__(self) -> None:
        self._members: dict[str, dict[Member, None]] = {}
        """By model key, in the order in which they were found to have it."""
        self._keys: dict[Member, frozenset[str]] = {}

    def having(self, key: str) -> Collection[Member]:
        """Who offers the model. Not to be kept beyond the next change."""
        return self._members.get(key, _NOBODY)

    def update(self, member: Member) -> bool:
        """Take note of the models that it offers now. Whether anything changed."""
        known, offered = self._keys.get(member, frozenset()), member.models.keys()
        if known == offered:
            return False
        now = frozenset(offered)
        for key in known - now:
            self._forget(key, member)
        for key in now - known:
            self._members.setdefault(key, {})[member] = None
        self._keys[member] = now
        return True

    def drop(self, member: Member) -> None:
        """It offers nothing any more."""
        for key in self._keys.pop(member, frozenset()):
            self._forget(key, member)

    def _forget(self, key: str, member: Member) -> None:
        members = self._members[key]
        del members[member]
        if not members:
            del self._members[key]

    def check_invariants(self) -> None:
        """Both tables say the same. Raises: AssertionError."""
        pairs = {(key, member) for key, members in self._members.items() for member in members}
        assert pairs == {(key, member) for member, keys in self._keys.items() for key in keys}, "the tables agree"
        assert all(self._members.values()), "no empty entries are kept"
