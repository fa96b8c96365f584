"""The report as a page: a single file that loads nothing, runs nothing, and shows hostile text as text."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from otel_fastperf import Report
from otel_fastperf.report.html import MOST_ROUTES, MOST_UNFOLDED, to_html
from otel_fastperf.report.labels import PLAIN
from tests.reports import GROWTH, N_PLUS_ONE, ORDERS, SHOP

VOID = {"meta"}
LOADING = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """A parsed page; fails if tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.tags if "id" in attributes]

    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.tags if tag == "a"]


def test_the_page_is_well_formed_and_complete() -> None:
    page = Page(to_html(SHOP))
    for said in (
        "shop: 1 critical bottleneck, 1 warning",
        "Code held the event loop for 3.6 s",
        "62 % database, 19 % waiting for a connection",
        "'SELECT items' ran 50 times, 0.385 s in total",
        "select(Order).options(selectinload(Order.items))",
        "shop/orders.py:41 in list_orders",
        "seen 100 times, 38 s in all",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "81.0%",
        "memory_growth outside of routes",
        "Telemetry's own failures: 12 \N{MULTIPLICATION SIGN} dropped_queue_full",
        "otel-fastperf 0.1.0",
    ):
        assert said in page.text


def everything(hostile: str) -> Report:
    finding = replace(
        N_PLUS_ONE,
        kind=hostile,
        subject=hostile,
        route=hostile,
        message=hostile,
        remedy=f"`{hostile}`",
        evidence={hostile: hostile, "plan_remark": hostile, "frames": (hostile,)},
        trace_ids=(hostile,),
    )
    route = replace(ORDERS, method=hostile, route=hostile, sentence=hostile, segments={hostile: 1.0})
    worker = replace(SHOP.worker, sentence=hostile, blocked_seconds={hostile: 1.0})
    return replace(
        SHOP,
        service=hostile,
        versions={hostile: hostile},
        worker=worker,
        routes=(route,),
        findings=(finding, GROWTH),
        troubles={hostile: 1.0},
    )


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "</style></title><img src=x onerror=alert(1)>",
        "\" onload='alert(1)' x=\"",
        "' style='background:url(//evil)",
        "]]><!--",
        "&lt;b&gt;",
        "a\x00b\x1b[31m\u202e\udc80",
    ],
)
def test_hostile_text_stays_text(hostile: str) -> None:
    html = to_html(everything(hostile))
    html.encode()
    page, plain = Page(html), Page(to_html(everything("harmless")))
    assert [(tag, sorted(attributes)) for tag, attributes in page.tags] == [
        (tag, sorted(attributes)) for tag, attributes in plain.tags
    ]
    assert "\x00" not in html
    assert "\x1b" not in html


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    html = to_html(SHOP)
    page = Page(html)
    assert not re.search(r"https?://|@import|url\(", html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    attributes = {name for _, each in page.tags for name in each}
    assert not attributes & LOADING
    assert not [name for name in attributes if name.startswith("on")]
    assert all(link.startswith("#") for link in page.links())
    policy = next(each["content"] for tag, each in page.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_a_route_links_to_its_findings() -> None:
    page = Page(to_html(SHOP))
    assert page.links() == ["#finding-0"]
    assert {"finding-0", "finding-1"} <= set(page.ids())
    assert len(page.ids()) == len(set(page.ids()))


def test_every_plot_has_a_text_alternative() -> None:
    html = to_html(SHOP)
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(plots) >= 2 + 2 + 1 + 4
    assert all(re.match(r'<svg[^>]* role="img"[^>]*><title>[^<]+</title>', plot) for plot in plots)
    assert (
        "<title>62% database, 19% waiting for a connection, 12% the endpoint itself, 6% serialization</title>" in html
    )
    assert "<title>p50 34 ms, p95 120 ms, p99 310 ms</title>" in html
    assert "<title>p50 &lt; 5 ms, p95 &gt; 10 s</title>" in html


def test_a_bar_is_as_wide_as_its_share() -> None:
    bar = re.search(r'<svg role="img" viewBox="0 0 600 18".*?</svg>', to_html(SHOP), re.DOTALL)
    assert bar is not None
    rects = re.findall(r'class="s-(\w+)" x="([\d.]+)" y="0" width="([\d.]+)"', bar.group())
    assert rects == [
        ("db", "0.0", "374.0"),
        ("pool_wait", "375.0", "111.5"),
        ("handler", "487.5", "74.0"),
        ("serialization", "562.5", "36.5"),
    ]


def test_every_segment_has_a_colour_in_light_and_dark_mode() -> None:
    html = to_html(SHOP)
    for segment in (*PLAIN, "other"):
        assert f".s-{segment} {{ fill: var(--{segment});" in html
        assert f"--{segment}: #" in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_unknown_figures_are_not_shown() -> None:
    bare = replace(
        SHOP,
        worker=replace(
            SHOP.worker,
            loop_utilization=None,
            loop_lag_p99=None,
            threads_limit=None,
            resident_bytes=None,
            gc_share=None,
            blocked_seconds={},
        ),
        routes=(replace(ORDERS, p50=None, p95=None, p99=None, segments={}),),
        findings=(),
    )
    page = Page(to_html(bare))
    assert "Event loop" not in page.text
    assert "Threads" not in page.text
    assert "None" not in page.text
    assert "No bottleneck was seen." in page.text


def test_a_service_without_requests_is_reported_as_such() -> None:
    page = Page(to_html(replace(SHOP, routes=(), findings=())))
    assert "No request has been measured yet." in page.text
    assert "Where the time goes" not in page.text


def test_the_slowest_of_many_routes_are_shown_and_most_of_them_folded() -> None:
    many = tuple(replace(ORDERS, route=f"/r{number}") for number in range(MOST_ROUTES + 7))
    page = Page(to_html(replace(SHOP, routes=many)))
    assert page.text.count("GET /r") == 2 * MOST_ROUTES
    assert page.text.count(f"{MOST_ROUTES - MOST_UNFOLDED} more routes") == 2
    assert page.text.count("… and 7 more in the JSON.") == 2


def test_text_between_backticks_is_shown_as_code() -> None:
    told = replace(N_PLUS_ONE, remedy="call `gc.freeze()` & `<b>`; a single ` is none")
    html = to_html(replace(SHOP, findings=(told,)))
    assert "call <code>gc.freeze()</code> &amp; <code>&lt;b&gt;</code>; a single ` is none" in html


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_renders_the_page(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(to_html(SHOP))
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path}/user"]
    page = f"file://{tmp_path}/report.html"
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("<svg") == to_html(SHOP).count("<svg")
    assert "Where the time goes" in done.stdout
