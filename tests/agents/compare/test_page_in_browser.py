"""The report in a real browser: nothing asked of the network, no error, usable without a mouse and without sight."""

import itertools
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def address(reported):
    return (reported / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, address):
    pages = []

    def opened(size=DESKTOP, scheme="light"):
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.trouble, page.requests = [], []
        page.on("console", lambda message: page.trouble.append(message.text))
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_no_error_no_request_and_nothing_wider_than_the_screen(open_page, address, size, scheme):
    page = open_page(size, scheme)
    assert page.trouble == []
    assert [url for url in page.requests if not url.startswith("data:")] == [address]
    wider, screen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wider <= screen
    outside = page.evaluate(
        """() => [...document.querySelectorAll('figure > svg text')].filter(text => {
            const box = text.getBoundingClientRect(), svg = text.ownerSVGElement.getBoundingClientRect();
            return box.width && (box.left < svg.left - 2 || box.right > Math.min(svg.right, innerWidth) + 2);
        }).map(text => text.textContent)"""
    )
    assert outside == []
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('figure > svg text')].map(
            text => text.getBoundingClientRect().height).filter(height => height > 0))"""
    )
    assert smallest >= 10  # the height of a line of 9 pixels


def test_light_and_dark_differ_and_pictures_follow(open_page):
    colours = []
    for scheme in ("light", "dark"):
        page = open_page(scheme=scheme)
        colours.append(
            page.evaluate(
                """() => ['body', 'figure > svg text'].map(what =>
                    getComputedStyle(document.querySelector(what))[what == 'body' ? 'backgroundColor' : 'fill'])"""
            )
        )
    assert colours[0] == ["rgb(255, 255, 255)", "rgb(86, 97, 115)"]
    assert colours[1] == ["rgb(18, 22, 29)", "rgb(163, 173, 189)"]


def test_what_a_screen_reader_finds(open_page):
    page = open_page()
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(after - before for before, after in itertools.pairwise(levels)) == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    for landmark in ("banner", "main", "navigation", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1
    pictures = page.get_by_role("img")
    assert pictures.count() == 12 + 8 + 3
    names = pictures.evaluate_all(
        "all => all.map(svg => svg.getAttribute('aria-labelledby').split(' ').map(id => "
        "document.getElementById(id).textContent))"
    )
    assert all(title and len(description) > 20 for title, description in names)
    tables = page.evaluate(
        """() => [...document.querySelectorAll('table')].map(table => ({
            caption: table.caption && table.caption.textContent.trim(),
            columns: [...table.tHead.rows[0].cells].every(cell => cell.tagName == 'TH' && cell.scope == 'col'),
            rows: [...table.tBodies[0].rows].every(row => row.cells[0].tagName == 'TH' && row.cells[0].scope == 'row'
                && row.cells.length == table.tHead.rows[0].cells.length),
        }))"""
    )
    assert len(tables) >= 8
    assert all(table["caption"] and table["columns"] and table["rows"] for table in tables)


def test_by_keyboard_alone(open_page):
    page = open_page(PHONE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0  # seen once it has the focus
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#results"
    fold = page.locator("summary").first
    fold.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    wide = page.evaluate(
        """() => {
            const tables = [...document.querySelectorAll('.scroll')];
            const table = tables.find(box => box.scrollWidth > box.clientWidth);
            table.focus();
            return document.activeElement === table;
        }"""
    )
    assert wide
    page.keyboard.press("ArrowRight")
    for _ in range(100):  # not `wait_for_function`: between looks it evaluates a string, which the page forbids
        if page.evaluate("document.activeElement.scrollLeft > 0"):
            break
        page.wait_for_timeout(50)
    else:
        pytest.fail("the table did not scroll")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
