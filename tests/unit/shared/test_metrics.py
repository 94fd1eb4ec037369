"""Our own histogram, beside prometheus_client's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import PROMISE_SECONDS, PlainHistogram

NAME = "guichet_test_seconds"
ABOUT = "What a test waited for."
LABELS = ("stage", "agency")

waits = st.sampled_from(PROMISE_SECONDS) | st.floats(0, 1_000_000)
observations = st.lists(st.tuples(st.sampled_from(["sent", "planned"]), st.sampled_from(["cnss", "other"]), waits))


@given(observed=observations)
def test_a_plain_histogram_shows_what_the_clients_own_would(observed: list[tuple[str, str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    plain = PlainHistogram(NAME, ABOUT, LABELS, buckets=PROMISE_SECONDS, registry=ours)
    full = Histogram(NAME, ABOUT, LABELS, buckets=PROMISE_SECONDS, registry=theirs)
    for stage, agency, seconds in observed:
        plain.labels(stage, agency).observe(seconds)
        full.labels(stage, agency).observe(seconds)
    assert _scraped(ours) == _scraped(theirs)


def test_a_series_is_shown_before_its_first_value() -> None:
    registry = CollectorRegistry()
    PlainHistogram(NAME, ABOUT, LABELS, buckets=PROMISE_SECONDS, registry=registry).labels("sent", "cnss")
    assert registry.get_sample_value(f"{NAME}_count", {"stage": "sent", "agency": "cnss"}) == 0


def test_nothing_else_can_have_a_plain_histograms_name() -> None:
    registry = CollectorRegistry()
    PlainHistogram(NAME, ABOUT, LABELS, buckets=PROMISE_SECONDS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Counter(f"{NAME}_count", ABOUT, registry=registry)


def _scraped(registry: CollectorRegistry) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    """What Prometheus reads, save when a series was made."""
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
