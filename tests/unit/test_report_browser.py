"""The page in a real browser, opened from ``file://``: it works, sends nothing, and takes names for names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import report_data, searched_data, stages_value
from search_cases import search_value
from test_report import PAYLOADS, hostile
from test_report_search import hostile_search
from test_report_stages import hostile_stages

from bitfront.report import ReportData, write, write_comparison
from bitfront.report.page import render
from bitfront.report.searches import read_searches
from bitfront.report.stages import read_stages

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

EXTRA_PAYLOADS = (
    "<svg onload=alert(1)>",
    "<iframe src=https://example.org>",
    "<img src='https://example.org/x.png'>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "<style>@import 'https://example.org/x.css'</style>",
    "<base href=https://example.org>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "</textarea><script>alert(1)</script>",
    "<a href='javascript:alert(1)'>x</a>",
    "__proto__",
    "constructor",
    "'-alert(1)-'",
    "\\u003cscript\\u003e",
    "x" * 400,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


class Watched:
    """A page, and everything it did that it should not do."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda m: self.faults.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda e: self.faults.append(f"error: {e}"))
        self.page.on("dialog", lambda d: (self.faults.append(f"dialog: {d.message}"), d.dismiss()))
        self.page.on("request", lambda r: self._request(r.url, path))
        self.page.goto(path.as_uri())

    def _request(self, url: str, path: Path) -> None:
        if url != path.as_uri() and not url.startswith("data:"):
            self.faults.append(f"request: {url}")

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.faults == []


def overflow(page: Any) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(report_data(np.random.default_rng(7), tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_no_error_no_request_no_overflow(browser: Any, report: Path, width: int) -> None:
    with Watched(browser, report, width) as page:
        assert overflow(page) == 0
        assert page.locator("#plane svg .dot").count() > 15
        page.locator("details").evaluate_all("all => all.forEach((d) => { d.open = true; })")
        assert overflow(page) == 0


def test_clicking_a_dot_opens_its_card(browser: Any, report: Path) -> None:
    with Watched(browser, report) as page:
        first = page.locator("#card h3").inner_text()
        dot = page.locator("#plane .dot.dominated").first
        dot.click()
        assert "selected" in dot.get_attribute("class")
        assert page.locator("#card h3").inner_text() != first
        assert "Dominated" in page.locator("#card .state").inner_text()
        identity = dot.get_attribute("data-id")
        assert identity in page.locator("#card").inner_text()
        assert page.locator(f'tr.selected[data-id="{identity}"]').count() == 1


def test_the_table_opens_the_card_too(browser: Any, report: Path) -> None:
    with Watched(browser, report) as page:
        page.locator("section:has(#front) tbody button.pick").nth(2).click()
        name = page.locator("section:has(#front) tbody tr").nth(2).locator("th span").inner_text()
        assert page.locator("#card h3").inner_text() == name
        assert page.locator("#plane .dot.selected").count() == 1


def test_the_plot_works_by_keyboard(browser: Any, report: Path) -> None:
    with Watched(browser, report) as page:
        assert page.locator('#plane .dot[tabindex="0"]').count() == 1
        page.locator('#plane .dot[tabindex="0"]').focus()
        before = page.evaluate("document.activeElement.dataset.id")
        page.keyboard.press("ArrowRight")
        after = page.evaluate("document.activeElement.dataset.id")
        assert after != before
        assert page.locator("#plane .tip").is_visible()
        page.keyboard.press("Enter")
        assert after in page.locator("#card").inner_text()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("document.activeElement.dataset.id") is not None


def test_the_switch_changes_the_axis(browser: Any, report: Path) -> None:
    with Watched(browser, report) as page:
        assert "Latency, ms" in page.locator("#plane svg").text_content()
        page.locator('input[value="latency"]').focus()
        page.keyboard.press("ArrowRight")
        assert "File size, kB" in page.locator("#plane svg").text_content()
        assert "≤ 1300 kB" in page.locator("#plane svg").text_content()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_run_without_latency(browser: Any, tmp_path: Path, rng: np.random.Generator, width: int) -> None:
    data = replace(searched_data(rng), stages=read_stages(stages_value()))
    path = tmp_path / "report.html"
    path.write_text(render(data), "utf-8")
    with Watched(browser, path, width) as page:
        assert overflow(page) == 0
        assert "File size, kB" in page.locator("#plane svg").text_content()
        assert page.locator("#plane .dot").count() == len(data.records)
        assert page.locator("#progress path.line").count() == 1
        page.locator('label:has(input[value="flash"])').click()
        assert "Flash, kB" in page.locator("#plane svg").text_content()
        assert page.locator("#stages-plane .shape").count() == 4
        page.locator("#stages-plane .shape.s1").first.hover()
        assert "width: 90.50 % at 100 M MACs, on the front so far" in page.locator("#stages-plane .tip").inner_text()


def test_sorting(browser: Any, report: Path) -> None:
    with Watched(browser, report) as page:
        table = page.locator("section:has(#front) table")
        heads = table.locator("thead th").all_inner_texts()
        column = next(n for n, text in enumerate(heads) if text.startswith("latency"))
        read = f"rows => rows.map((r) => Number(r.cells[{column}].dataset.value))"
        button = table.locator("thead th").nth(column).locator("button")
        button.focus()
        page.keyboard.press("Enter")
        rising = table.locator("tbody tr").evaluate_all(read)
        assert rising == sorted(rising)
        assert table.locator("thead th").nth(column).get_attribute("aria-sort") == "ascending"
        button.click()
        assert table.locator("tbody tr").evaluate_all(read) == sorted(rising, reverse=True)
        assert table.locator('thead th[aria-sort="descending"]').count() == 1
        table.locator("thead th").nth(1).locator("button").click()
        names = table.locator("tbody th span").all_inner_texts()
        sizes = [int(name.partition("x")[0]) for name in names]
        assert sizes == sorted(sizes)  # 96 before 256: numbers inside of names count as numbers


def test_what_was_not_measured_is_sorted_last(browser: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    with Watched(browser, write(report_data(rng, tmp_path))) as page:
        page.locator("details").first.evaluate("d => { d.open = true; }")
        table = page.locator("details table").first
        for _ in range(2):
            table.locator("thead th", has_text="p50").locator("button").click()
            cells = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
            n_measured = sum(cell != "–" for cell in cells)
            assert 0 < n_measured < len(cells)
            assert "–" not in cells[:n_measured]


def test_copying_a_command(browser: Any, report: Path) -> None:
    with Watched(browser, report, permissions=["clipboard-read", "clipboard-write"]) as page:
        button = page.locator("section:has(#front) tbody .copy").first
        button.click()
        page.wait_for_function("b => b.textContent === 'Copied'", arg=button.element_handle())
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("bitfront predict ")
        assert copied.endswith("model.onnx IMAGE")


def test_the_page_prints_and_works_in_the_dark(browser: Any, report: Path) -> None:
    with Watched(browser, report, color_scheme="dark") as page:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 24)"
        assert len(page.pdf()) > 20_000
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator(".switch").first.is_hidden()


def test_the_tables_need_no_script(browser: Any, report: Path) -> None:
    with Watched(browser, report, java_script_enabled=False) as page:
        assert page.locator("section:has(#front) tbody tr").count() > 3
        assert page.locator("noscript").inner_text().startswith("The plots need JavaScript")


def test_comparison(browser: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    data = report_data(rng)
    path = write_comparison([data, replace(report_data(rng), name="other")], tmp_path / "compare.html")
    for width in (1280, 390):
        with Watched(browser, path, width) as page:
            assert overflow(page) == 0
            assert page.locator("#fronts-chart path.line").count() == 2
            page.locator('label:has(input[value="size"])').click()
            assert "File size, kB" in page.locator("#fronts-chart svg").text_content()


# --- bit searches ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, folder = np.random.default_rng(7), tmp_path_factory.mktemp("searched")
    data = ReportData("run", folder, searches=read_searches([search_value(rng)]))
    (folder / "report.html").write_text(render(data), "utf-8")
    return folder / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_a_search_fits_the_screen(browser: Any, searched: Path, width: int) -> None:
    with Watched(browser, searched, width) as page:
        assert overflow(page) == 0
        assert page.locator("#search-0-plane .dot").count() == 12
        for group in ("weight", "activation"):
            assert page.locator(f"#search-0-heat-{group} path[class^=b]").count() >= 4
        assert page.locator("#search-0-odds rect").count() > 300
        page.locator('label:has(input[name="search-0-view"][value="all"])').click()
        page.locator('label:has(input[name="search-0-axis"][value="1"])').click()
        assert "RAM, kB" in page.locator("#search-0-plane svg").text_content()
        assert page.locator("#search-0-plane .dot.off").count() == 0


def shown_bits(page: Any) -> list[str]:
    cells: list[str] = page.locator("#search-0-why tbody tr td:nth-child(6)").all_inner_texts()
    return cells


def test_picking_a_plan_changes_table_maps_and_plane(browser: Any, searched: Path) -> None:
    with Watched(browser, searched) as page:
        before = shown_bits(page)
        page.locator("#search-0-members button.pick").nth(2).click()
        assert page.locator("#search-0-pick").input_value() == "2"
        assert shown_bits(page) != before
        assert page.locator("#search-0-plane .dot.selected").get_attribute("data-n") == "2"
        assert page.locator("#search-0-heat-weight .row.picked").text_content().startswith("3: ")
        page.locator("#search-0-pick").select_option("14")  # after the twelve plans: 2, 3, 4 bits everywhere
        assert page.locator("#search-0-pick option:checked").inner_text() == "4 bits everywhere"
        assert set(shown_bits(page)) == {"4", "16"}
        page.locator("#search-0-why thead button", has_text="values").click()
        page.locator("#search-0-pick").select_option("2")  # a sorted table keeps its rows right
        rows = page.locator("#search-0-why tbody tr").evaluate_all(
            "all => all.map((r) => [r.dataset.tensor, r.cells[5].innerText])"
        )
        picked = json.loads(page.locator("#data").text_content())["searches"][0]["picks"][2]
        assert all(str(picked[int(n)]) == text for n, text in rows)


def test_the_maps_work_by_keyboard_and_pointer(browser: Any, searched: Path) -> None:
    with Watched(browser, searched) as page:
        heat = page.locator("#search-0-heat-weight")
        heat.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        first = heat.locator(".tip").inner_text()
        assert "bits in plan" in first
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        row = page.locator("#search-0-pick").input_value()
        assert heat.locator(".tip").inner_text() != first
        assert f"in plan {int(row) + 1};" in heat.locator(".tip").inner_text()
        heat.hover(position={"x": 400, "y": 30})
        assert "in plan 2;" in heat.locator(".tip").inner_text()
        page.locator('#search-0-plane .dot[tabindex="0"]').focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        assert page.locator("#search-0-pick").input_value() == "11"
        before = page.locator("#search-0-odds-name").inner_text()
        page.locator("#search-0-odds").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#search-0-odds-name").inner_text() != before


def test_hostile_tensors(browser: Any, tmp_path: Path) -> None:
    searches = read_searches([hostile_search(text) for text in (*PAYLOADS, *EXTRA_PAYLOADS)])
    path = tmp_path / "report.html"
    for part in (searches[:12], searches[12:24], searches[24:]):
        path.write_text(render(ReportData("r", tmp_path, searches=part)), "utf-8")
        with Watched(browser, path, width=390) as page:
            assert page.locator(".bit-search").count() == len(part)
            for event in ("mouseenter", "focus", "click"):
                page.locator(".plane .dot").evaluate_all(
                    f"all => all.forEach((d) => d.dispatchEvent(new Event('{event}')))"
                )
            for heat in page.locator(".heat").all():
                heat.focus()
                page.keyboard.press("ArrowRight")
            page.locator("select").evaluate_all("all => all.forEach((s) => s.dispatchEvent(new Event('change')))")
            page.locator("thead button").evaluate_all("all => all.forEach((b) => b.click())")
            assert overflow(page) == 0
            assert page.locator("main script, main iframe, main [onerror], main [onload], main style").count() == 0


def all_at_once(rng: np.random.Generator, texts: tuple[str, ...], path: Path) -> ReportData:
    """Every payload in every field, on one page."""
    each = [hostile(rng, text, path) for text in texts]
    records = tuple(r for data in each for r in data.records)
    return replace(
        each[0],
        name=" ".join(texts),
        records=records,
        folders={r.id: f"{n:02d}_{text}" for n, (r, text) in enumerate(zip(records[::2], texts, strict=True))},
        curves=tuple(c for data in each for c in data.curves),
        previews=tuple(p for data in each for p in data.previews),
        health={"parts": {k: v for data in each for k, v in data.health["parts"].items()}, "notes": list(texts)},
        environment={k: v for data in each for k, v in data.environment.items()},
        config_text="\n".join(texts),
        stages=read_stages([stage for text in texts for stage in hostile_stages(text)]),
        command=" ".join(texts),
        events=tuple(e for data in each for e in data.events),
    )


@pytest.mark.parametrize("texts", [(*PAYLOADS, *EXTRA_PAYLOADS), PAYLOADS[1:2], EXTRA_PAYLOADS[-1:]])
def test_hostile_names(browser: Any, tmp_path: Path, rng: np.random.Generator, texts: tuple[str, ...]) -> None:
    data = all_at_once(rng, texts, tmp_path)
    path = tmp_path / "report.html"
    path.write_text(render(data), "utf-8")
    with Watched(browser, path, width=390) as page:
        assert page.locator("#plane .dot").count() == 2 * len(texts)
        for event in ("mouseenter", "focus", "click"):
            page.locator("#plane .dot").evaluate_all(
                f"all => all.forEach((d) => d.dispatchEvent(new Event('{event}')))"
            )
        marks = page.locator("#stages-plane .shape")
        assert marks.count() == len(texts)
        marks.evaluate_all("all => all.forEach((m) => m.dispatchEvent(new Event('focus')))")
        page.locator("thead button").evaluate_all("all => all.forEach((b) => b.click())")
        page.locator("details").evaluate_all("all => all.forEach((d) => { d.open = true; })")
        assert overflow(page) == 0
        assert page.locator("main script, main iframe, main [onerror], main [onload], main style").count() == 0
    write_comparison([data, replace(data, name=texts[0])], path)
    with Watched(browser, path, width=390) as page:
        circles = page.locator("#fronts-chart circle")
        circles.evaluate_all("all => all.forEach((c) => c.dispatchEvent(new Event('mouseenter')))")
        assert overflow(page) == 0
