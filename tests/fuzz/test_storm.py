"""Thousands of malformed requests harm nobody but those who send them."""

from tests.fuzz.storm import storm

REQUESTS = 6_000


def test_a_storm_of_malformed_requests_ends_clean_and_harms_no_other() -> None:
    figures = storm(REQUESTS)
    assert figures["findings"] == []
    assert sum(figures["sent"].values()) >= REQUESTS
    assert figures["canaries"] > 50
