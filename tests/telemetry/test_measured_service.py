"""What a running service measures, as Prometheus fetches it and as a collector gets it over OTLP.

Dashboard and alerts of `deploy/` are held against it: each name and label in them is there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import suite
from suite.telemetry import instruments
from suite.telemetry.exposition import prometheus_name
from suite.telemetry.instrument import Counter, Definition, Histogram
from support.command import run_command
from support.gateway import RunningGateway, gateway_of, running_node
from support.metrics_receiver import MetricsReceiver, metrics_receiver
from support.models import CHAT_TEMPLATE, tiny_model
from support.ports import free_port
from support.promql import Expression, Scrapes, Selector, grouped_by, parse, selectors

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS = """
memory_limit_gb = 0.1
turn_seconds = 0
load_wait_ms = 60000
metrics = "otlp"
models.huge.context_length = 1_000_000
"""
OF_TARGETS = {"instance", "job"}
"""The labels that Prometheus itself adds."""
OF_PROMETHEUS = {"up"}
OF_PROCESSES = {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"}
"""What prometheus_client says of any process, as far as the dashboard has it."""
SECONDS = 60.0
pytestmark = pytest.mark.timeout(180)  # with the time of the fixture


class Measured:
    """What was fetched before a model's process was killed, and at the end."""

    def __init__(self, node_before: str, node: str, gateway: str, receiver: MetricsReceiver) -> None:
        self.node_before, self.node, self.gateway = node_before, node, gateway
        self.receiver = receiver
        self.samples = [*samples(node), *samples(gateway)]
        """At the end."""
        self.samples_before = samples(node_before)
        self.names = {sample.name for sample in (*self.samples_before, *self.samples)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of a name's series with these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def before(self, name: str) -> Sample:
        """The only series of this name before the process was killed."""
        (found,) = [sample for sample in self.samples_before if sample.name == name]
        return found


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """A node with memory for one of two models, and a gateway with keys, after some requests and a crash."""
    directory = tmp_path_factory.mktemp("measured")
    for name in ("a", "b", "huge"):
        tiny_model(directory / f"{name}.gguf", chat_template=CHAT_TEMPLATE)
    (directory / "suite.toml").write_text(SETTINGS)
    data_dir, port = directory / "data", free_port()
    options = ("--config", str(directory / "suite.toml"), "--metrics-listen", f"127.0.0.1:{port}")
    with pytest.MonkeyPatch.context() as patch, metrics_receiver() as receiver:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        patch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "300")
        with running_node(directory, data_dir, *options):
            secret = run_command("keys", "create", "k", "--data-dir", str(data_dir)).stdout.split()[-1]
            admin = run_command(
                "keys", "create", "watch", "--endpoint", "admin", "--data-dir", str(data_dir)
            ).stdout.split()[-1]
            gateway_options = ("--require-keys", "--config", str(directory / "suite.toml"))
            with gateway_of(data_dir, *gateway_options) as gateway:
                _use(gateway, secret)
                evicted = 'suite_unloads_total{gen_ai_request_model="a",suite_reason="evicted"} 1.0'
                for told_late in ("suite_engine_step_sequences_count", "suite_instance_estimate_error"):
                    _until(lambda: _scrape(port), told_late)
                before = _until(lambda: _scrape(port), re.escape(evicted))
                # What is told of a running model has to be sent while it runs.
                _until(lambda: "\n".join(receiver.metrics.get("node", ())), "suite.instance.estimate.error")
                anyio.run(_crash, data_dir)
                after = _until(
                    lambda: _scrape(port), r'suite_crashes_total{[^}]*suite_reason="unknown"} 1\.0'
                )
                _until(lambda: "\n".join(receiver.metrics.get("node", ())), "suite.crashes")
                _until(lambda: "\n".join(receiver.metrics.get("gateway", ())), "gen_ai.client.token.usage")
                exposed = gateway.get("/metrics", {"Authorization": f"Bearer {admin}"}).body.decode()
        yield Measured(before, after, exposed, receiver)


def _use(gateway: RunningGateway, secret: str) -> None:
    for model in ("a", "b", "b"):
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Once upon"}]}
        answer = gateway.post("/v1/chat/completions", body, {"Authorization": f"Bearer {secret}"})
        assert answer.status == 200, answer.body
    for model, status in (("none", 404), ("huge", 507)):
        body = {"model": model, "messages": [{"role": "user", "content": "Once"}]}
        answer = gateway.post("/v1/chat/completions", body, {"Authorization": f"Bearer {secret}"})
        assert answer.status == status, answer.body


async def _crash(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        model = (await client.get_model_status("b")).model
        assert model is not None
        assert model.instance is not None
        assert model.instance.pid is not None
        os.kill(model.instance.pid, signal.SIGKILL)


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text: str = answer.read().decode()
        return text


def _until(read: Callable[[], str], pattern: str) -> str:
    end = time.monotonic() + SECONDS
    while re.search(pattern, text := read()) is None:
        assert time.monotonic() < end, text
        time.sleep(0.1)
    return text


def definitions() -> dict[str, Definition]:
    """All that is defined, by the names of its series."""
    named: dict[str, Definition] = {}
    for each in instruments.ALL:
        name = prometheus_name(each.name, each.unit)
        match each:
            case Counter():
                named[f"{name}_total"] = each
            case Histogram():
                named |= {f"{name}{part}": each for part in ("_bucket", "_count", "_sum")}
            case _:
                named[name] = each
    return named


DEFINED = definitions()


def label(attribute: str) -> str:
    return attribute.replace(".", "_")


def labels_of(name: str) -> set[str]:
    """The labels that the series of a name may have."""
    if name in OF_PROMETHEUS | OF_PROCESSES:
        return OF_TARGETS
    extra = {"le"} if name.endswith("_bucket") else set()
    return {label(each) for each in DEFINED[name].attributes} | extra | OF_TARGETS


def board() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DEPLOY / "grafana" / "suite.json").read_text())
    return document


def board_expressions() -> list[str]:
    """The expressions of all panels, with what Grafana would put into them."""
    panels = [target for panel in board()["panels"] for target in panel.get("targets", ())]
    put_in = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}
    expressions = []
    for target in panels:
        text = target["expr"]
        for name, value in put_in.items():
            text = text.replace(name, value)
        assert "$" not in text
        expressions.append(text)
    return expressions


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_all_that_is_defined_is_measured_and_nothing_else(measured: Measured) -> None:
    assert DEFINED.keys() - measured.names == set()
    others = measured.names - DEFINED.keys()
    assert {name for name in others if not name.startswith(("process_", "suite_node_"))} == {"target_info"}


def test_series_differ_by_nothing_but_the_attributes_that_are_defined(measured: Measured) -> None:
    for sample in measured.samples:
        if sample.name in DEFINED:
            assert sample.labels.keys() <= labels_of(sample.name), sample.name


def test_the_figures_are_those_of_what_was_done(measured: Measured) -> None:
    assert measured.value("suite_cache_requests_total", gen_ai_request_model="a") == 1
    assert measured.value("suite_cache_requests_total", suite_outcome="miss") == 3
    assert measured.value("suite_cache_requests_total", suite_outcome="hit") == 1
    assert measured.value("suite_load_duration_seconds_count") == 2
    for phase in ("wait", "reserve", "inspect", "spawn", "map", "warm_up"):
        assert measured.value("suite_load_phase_duration_seconds_count", suite_phase=phase) == 2
    assert measured.value("suite_switches_total") == 1
    assert measured.value("suite_unloads_total", gen_ai_request_model="a", suite_reason="evicted") == 1
    assert measured.value("suite_unload_age_seconds_count", suite_reason="evicted") == 1
    assert measured.value("suite_crashes_total") == 1
    assert measured.value("gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="chat") == 3
    assert measured.value("suite_generations_total") == 3
    assert measured.value("suite_generation_tokens_total", gen_ai_token_type="reused") > 0
    tokens = measured.value("suite_generation_tokens_total", gen_ai_token_type="output")
    assert measured.value("suite_gateway_tokens_total", kind="completion") == tokens
    assert measured.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == tokens
    assert measured.value("suite_refusals_total", error_type="not_enough_memory") == 1
    failed = "gen_ai_client_operation_duration_seconds_count"
    assert measured.value(failed, error_type="not_enough_memory", gen_ai_request_model="unknown") == 1
    assert measured.value("suite_engine_step_sequences_count") > 0
    steps = measured.value("suite_engine_step_sequences_count")
    assert measured.value("suite_engine_step_threads_count") == steps
    by_key = {
        status: measured.value("suite_gateway_key_requests_total", status=status)
        for status in ("200", "404", "507")
    }
    assert by_key == {"200": 3, "404": 1, "507": 1}
    assert measured.value("suite_gateway_requests_running") == 1, "the one that asks for the metrics"


def test_the_states_of_circuit_breakers_are_told(measured: Measured) -> None:
    for text in (measured.node, measured.gateway):
        states = {
            (sample.labels["suite_breaker_kind"], sample.labels["suite_breaker_name"]): sample.value
            for sample in samples(text)
            if sample.name == "suite_breaker_state"
        }
        assert states["otlp", "metrics"] == 0
        assert ("otlp", "traces") not in states


def test_memory_is_told_of_each_model(measured: Measured) -> None:
    resident = measured.before("suite_instance_resident_bytes")
    reserved = measured.before("suite_instance_reserved_bytes")
    assert resident.labels == {"gen_ai_request_model": "b", "suite_memory": "ram"} == reserved.labels
    assert 0 < resident.value <= reserved.value
    assert measured.before("suite_memory_limit_bytes").value == int(0.1 * 2**30)


def test_a_collector_gets_the_same_names_and_figures(measured: Measured) -> None:
    receiver = measured.receiver
    assert receiver.paths == {"/v1/metrics"}
    sent = {**receiver.metrics["node"], **receiver.metrics["gateway"]}
    assert {each.name for each in instruments.ALL} == sent.keys()
    for each in instruments.ALL:
        assert (sent[each.name].unit, sent[each.name].description) == (each.unit, each.description)
    unloads = receiver.metrics["node"]["suite.unloads"].sum
    assert unloads.is_monotonic
    assert sum(point.as_int for point in unloads.data_points) == measured.value("suite_unloads_total")
    durations = receiver.metrics["node"]["gen_ai.server.request.duration"].histogram.data_points
    assert sum(point.count for point in durations) == 3
    assert receiver.resources["node"]["service.name"] == "suite-node"
    assert "model a" not in receiver.metrics, "a model's process does not export by itself"


def test_expressions_of_dashboard_and_alerts_are_about_what_there_is(measured: Measured) -> None:
    for text in (*board_expressions(), *(rule["expr"] for rule in alerts())):
        expression = parse(text)
        for selector, is_growth in selectors(expression):
            _check_selector(selector, is_growth, measured.names)
        for aggregation, selector in grouped_by(expression):
            assert set(aggregation.by) <= labels_of(selector.name), text


def _check_selector(selector: Selector, is_growth: bool, names: set[str]) -> None:
    assert selector.name in names | OF_PROMETHEUS, "no running service has it"
    if selector.name in DEFINED:
        assert is_growth == isinstance(DEFINED[selector.name], Counter | Histogram)
    assert {matcher.label for matcher in selector.matchers} <= labels_of(selector.name)


def test_every_expression_of_the_dashboard_has_values(measured: Measured) -> None:
    scrapes = Scrapes()
    for at, text in ((0.0, measured.node_before), (30.0, measured.node)):
        scrapes.add(at, text, instance="node", job="suite-node")
    for at in (0.0, 30.0):
        scrapes.add(at, measured.gateway, instance="gateway", job="suite-gateway")
    empty = [text for text in board_expressions() if not scrapes.evaluate(parse(text), 30.0)]
    assert empty == []


def test_the_first_crash_of_a_model_raises_the_alert(measured: Measured) -> None:
    scrapes = Scrapes()
    scrapes.add(0.0, measured.node_before, instance="node", job="suite-node")
    scrapes.add(15.0, measured.node, instance="node", job="suite-node")
    (crashes,) = [rule["expr"] for rule in alerts() if rule["alert"] == "SuiteModelCrashes"]
    assert {dict(labels)["gen_ai_request_model"] for labels in scrapes.evaluate(parse(crashes), 15.0)} == {
        "b"
    }


@pytest.mark.parametrize(("states", "is_alarming"), [((2, 1, 2, 1), True), ((2, 1, 1, 1), False)])
def test_trials_do_not_end_the_alert_on_breakers_and_disuse_does(
    states: tuple[int, ...], is_alarming: bool
) -> None:
    scrapes = Scrapes()
    for number, state in enumerate(states):
        scrapes.add(60.0 * number, f'suite_breaker_state{{suite_breaker_kind="model"}} {state}\n')
    (rule,) = [rule for rule in alerts() if rule["alert"] == "SuiteBreakerOpen"]
    assert bool(scrapes.evaluate(parse(rule["expr"]), 190.0)) == is_alarming


def test_variables_of_the_dashboard_are_about_what_there_is(measured: Measured) -> None:
    for variable in board()["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            assert found[1] in measured.names
            assert found[2] in labels_of(found[1])


def test_what_alerts_say_names_labels_that_they_have() -> None:
    for rule in alerts():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        said = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert said <= _labels_left(parse(rule["expr"])), rule["alert"]


def _labels_left(expression: Expression) -> set[str]:
    """The labels that the values of an expression have."""
    for aggregation, _ in grouped_by(expression):
        return set(aggregation.by)
    (selected, _) = next(selectors(expression))
    return labels_of(selected.name)


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
