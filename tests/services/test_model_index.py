"""The index of models against a dumb one."""

from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.types import EngineModel
from ollamamax.services.members import Member
from ollamamax.services.model_index import ModelIndex
from ollamamax.testing.engine import TwinEngine

KEYS = "abcd"
steps = st.lists(st.tuples(st.integers(0, 3), st.none() | st.sets(st.sampled_from(KEYS))), max_size=30)


@given(steps)
async def test_it_knows_who_offers_what(told: list[tuple[int, set[str] | None]]) -> None:
    index, members, dumb = ModelIndex(), [Member(str(n), TwinEngine(), None) for n in range(4)], dict[int, set[str]]()
    for number, keys in told:
        member = members[number]
        if keys is None:
            index.drop(member)
            dumb.pop(number, None)
        else:
            member.set_models([EngineModel(key, key) for key in sorted(keys)])
            assert index.update(member) == (dumb.get(number, set()) != keys)
            dumb[number] = keys
        index.check_invariants()
        for key in KEYS:
            assert set(index.having(key)) == {members[n] for n, keys in dumb.items() if key in keys}
