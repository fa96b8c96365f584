"""The files of the stack that are generated whole: scrape targets, service level objectives, rules for Kubernetes."""

import json
import textwrap
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from otel_fastperf.metrics import HTTP_SECONDS

#: the name by which a container reaches the machine it runs on; docker-compose.yml defines it
HOST: Final = "host.docker.internal"

_TARGETS: Final = """\
# Your service: the address of its /metrics, and its name. `job` must equal the `service.name` of its traces
# (OTEL_SERVICE_NAME); otherwise links between dashboards, traces and alerts lead nowhere. Add one entry for each
# service, and one target for each instance.
- targets:
    # host.docker.internal is the machine that runs Docker; there, the app must listen on 0.0.0.0
{targets}
  labels:
    job: {service}
"""

_SLO_TARGETS: Final = """\
# The service level objectives. The rules in slo.yml measure against them.
#
# Each number applies to every service that this Prometheus scrapes. To override a number for one service, add a rule to
# the group at the end of this file.
#
# A service keeps its objectives for 5 minutes without a scrape: an overloaded one answers only some, and its pages must
# not end with each that fails.
groups:
  - name: fastperf-slo-targets
    rules:
      # Share of requests that must not fail. A 5xx, an exception and an aborted response count as failures; a 4xx and a
      # client that disconnected do not.
      - record: job:slo_availability:objective
        expr: >-
          job:slo_availability:override
          or on (job) group by (job) (last_over_time(fastperf_build_info[5m])) * {availability}
      # Share of the successful requests that must finish, to the last byte, within the threshold.
      - record: job:slo_latency:objective
        expr: >-
          job:slo_latency:override
          or on (job) group by (job) (last_over_time(fastperf_build_info[5m])) * {latency}
      # The threshold, in seconds. It must be a bucket bound of http_server_request_duration_seconds:
      # {bounds}.
      # Any other number cannot be measured, and FastperfSloWithoutBucket fires.
      - record: job:slo_latency_threshold:seconds
        expr: >-
          job:slo_latency_threshold:override
          or on (job) group by (job) (last_over_time(fastperf_build_info[5m])) * {threshold}
      # Minimum number of bad requests in a window for an alert. In a quiet service, a single failure is a large share
      # of the requests and still only one failure.
      - record: job:slo_bad_requests:minimum
        expr: >-
          job:slo_bad_requests:override
          or on (job) group by (job) (last_over_time(fastperf_build_info[5m])) * 10.0

  # Objectives of one service; uncomment, and repeat for each service:
  # - name: fastperf-slo-overrides
  #   rules:
  #     - record: job:slo_availability:override
  #       expr: vector(0.9995)
  #       labels: {{job: my-service}}
  #     - record: job:slo_latency:override
  #       expr: vector(0.95)
  #       labels: {{job: my-service}}
  #     - record: job:slo_latency_threshold:override
  #       expr: vector(1.0)
  #       labels: {{job: my-service}}
  #     - record: job:slo_bad_requests:override
  #       expr: vector(5.0)
  #       labels: {{job: my-service}}
"""

_PROMETHEUS_RULE: Final = """\
# {source} for Prometheus' operator. Generated: `otel-fastperf stack init --kubernetes`, or
# `make kubernetes` in a checkout.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fastperf-{name}
spec:
{rules}"""


def targets(service: str, addresses: Sequence[str]) -> str:
    """The scrape targets of an app; each address is `host:port`."""
    lines = "\n".join(f"    - {_quoted(address)}" for address in addresses)
    return _TARGETS.format(targets=lines, service=_quoted(service))


def slo_targets(availability: str, latency: str, threshold: str) -> str:
    """The rules that record the objectives: percentages, and the latency threshold in seconds."""
    return _SLO_TARGETS.format(
        availability=_ratio(availability),
        latency=_ratio(latency),
        threshold=Decimal(threshold),
        bounds=" ".join(str(bound) for bound in HTTP_SECONDS),
    )


def prometheus_rule(source: str, rules: str) -> str:
    """The rules of the file `source`, `…/alerts.yml`, as an object of Prometheus' operator. Comments are kept."""
    name = source.rpartition("/")[2].removesuffix(".yml")
    return _PROMETHEUS_RULE.format(source=source, name=name, rules=textwrap.indent(rules, "  "))


def _quoted(text: str) -> str:
    """As YAML, of which JSON strings are a part."""
    return json.dumps(text, ensure_ascii=False)


def _ratio(percent: str) -> str:
    return str((Decimal(percent) / 100).normalize())
