"""openmetrics.py PEERS <PAGE: reads a page of metrics with Prometheus's own parser of OpenMetrics, which is strict.

Fails if that does not take it, or if the page has not so many peers, or nothing of what there is to know of each.
"""

import math
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

page = sys.stdin.buffer.read().decode("utf-8")
families = {family.name: family for family in text_string_to_metric_families(page)}

kinds = {family.type for family in families.values()}
assert kinds == {"counter", "gauge", "histogram", "info"}, kinds
for family in families.values():
    assert family.name.startswith("powderhorn_"), family.name
    assert family.documentation, f"{family.name}: no HELP"
    for sample in family.samples:
        assert math.isfinite(sample.value), sample
assert len(families) > 100, len(families)

peers = families["powderhorn_peer_up"].samples
assert len(peers) == int(sys.argv[1]), f"{len(peers)} peers"
addresses = {sample.labels["address"] for sample in peers}
assert len(addresses) == len(peers), "an address twice"
for sample in peers:
    assert set(sample.labels) == {"peer", "site", "address"}, sample
# What it says as counters is what varnishstat has, too.
(peers_all,) = families["powderhorn_peers"].samples
assert peers_all.value == len(peers), peers_all
latencies = families["powderhorn_purge_latency_seconds"]
print(f"{len(families)} families, {len(peers)} peers, {len(latencies.samples)} samples of latencies")
