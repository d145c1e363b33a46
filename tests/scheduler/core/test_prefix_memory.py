from scheduler.core.prefix_memory import REMEMBERED_PREFIXES, PrefixMemory
from tests.scheduler.core.builders import make_request


def test_the_longest_beginning_that_is_known_counts() -> None:
    memory = PrefixMemory()
    memory.add(make_request(prefixes=(b"a", b"b", b"c"), prompt_tokens=300))
    assert memory.hit_tokens(make_request(prefixes=(b"a", b"b", b"other"), prompt_tokens=300)) == 128
    assert memory.hit_tokens(make_request(prefixes=(b"a", b"b", b"c"), prompt_tokens=300)) == 256
    assert memory.hit_tokens(make_request(prefixes=(b"x", b"y"), prompt_tokens=300)) == 0
    assert memory.hit_tokens(make_request(prompt_tokens=3)) == 0


def test_what_was_used_least_lately_is_forgotten() -> None:
    memory = PrefixMemory()
    first, second = (make_request(prefixes=(key,), prompt_tokens=100) for key in (b"first", b"second"))
    memory.add(first)
    memory.add(second)
    memory.add(first)
    for number in range(REMEMBERED_PREFIXES - 1):
        memory.add(make_request(prefixes=(str(number).encode(),), prompt_tokens=100))
    assert memory.hit_tokens(first) == 64
    assert memory.hit_tokens(second) == 0
