#!/usr/bin/env bash
# The metrics page as Prometheus' own client library reads it, compared with the requests sent.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3
scene

# The library's parser reads everything that Prometheus reads, and is stricter where the format is open.
{ python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check prometheus-client==0.22.1; } >pip.log 2>&1 ||
    skip "prometheus-client can't be installed: $(tail -n 1 pip.log)"
cat >parse.py <<'EOF_PY'
import sys
from prometheus_client.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(open(sys.argv[1]).read()))
names = [family.name for family in families]
assert len(set(names)) == len(names), f"families that come twice: {names}"
for family in families:
    assert family.documentation, f"{family.name} has no HELP"
    assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is of type {family.type}"
    # The library gives counters the suffix of OpenMetrics.
    name_of = lambda sample: sample.name.removesuffix("_total") if family.type == "counter" else sample.name
    kinds = [(name_of(sample), tuple(sample.labels)) for sample in family.samples]
    if family.type == "histogram":
        bounds = [float(s.labels["le"]) for s in family.samples if s.name.endswith("_bucket")]
        counts = [s.value for s in family.samples if s.name.endswith("_bucket")]
        assert bounds == sorted(bounds) and bounds[-1] == float("inf"), bounds
        assert counts == sorted(counts), counts
        count = next(s.value for s in family.samples if s.name.endswith("_count"))
        assert count == counts[-1], f"{count} answers, {counts[-1]} in buckets"
    else:
        assert kinds == [(family.name, ())], f"{family.name} has other samples: {kinds}"
    for sample in family.samples:
        print(name_of(sample) + "".join(f"[{value}]" for value in sample.labels.values()), sample.value)
EOF_PY

# page NAME: the samples of the moment are in the file NAME, one a line.
page() {
    api GET /v1/metrics; is 200
    venv/bin/python parse.py body >"$1" || fail "the page can't be parsed: $BODY"
}
# added SAMPLE: its growth from the page `before` to the page `after`.
added() { awk -v name="$1" '$1 == name { if (FNR == NR) before = $2; else print $2 - before }' before after; }
gained() { equal "$1" "$2" "$(added "$1")"; }

step 'Prometheus can read the page'
start
page before
equal 'content type' 'text/plain; version=0.0.4; charset=utf-8' "$(header Content-Type)"
step "$(wc -l <before) samples"

step 'it counts the requests sent'
api POST /v1/key/create/my-key; is 200
ask --data '{}' --output /dev/null --write-out '%{http_code}\n' "$URL/v1/key/generate/my-key?[1-200]" | sort | uniq -c >answers
equal 'answers' '200 200' "$(sed 's/^ *//' answers)"
ask --output /dev/null "$URL/nowhere?[1-7]"
rm -rf keys
api POST /v1/key/create/other; is 502
page after
gained kes_http_request_success 201
gained kes_http_request_error 7
gained kes_http_request_failure 1
gained kes_http_request_active 0
gained kes_http_response_time_count 209
gained 'kes_http_response_time_bucket[+Inf]' 209
gained kes_keystore_success 2
gained kes_keystore_failure 1
gained kes_cache_hits 199
gained kes_cache_misses 1
