"""The shop front in a real browser against the real service: a click changes the next list."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.services.conftest import Shop
from tests.services.live import OPERATOR_KEY, Server, serve
from tests.services.shop import cup, tea

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt install chromium)"),
]


@pytest.fixture(scope="module")
def server(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(shop, tmp_path_factory.mktemp("home"), champion="1") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(server.url)
    expect(opened.get_by_role("alert")).to_be_visible()
    opened.get_by_label("API key").fill(OPERATOR_KEY)
    opened.get_by_role("button", name="Use it").click()
    expect(opened.locator("#list .card").first).to_be_visible()
    yield opened
    context.close()
    assert wrong == []


def listed(page: Page, part: str = "#list") -> list[str]:
    cards = page.locator(f"{part} .card")
    expect(cards.first).to_be_visible()
    return [str(card.get_attribute("data-item")) for card in cards.all()]


def open_product(page: Page, item_id: str) -> None:
    page.goto(re.sub(r"#.*", "", page.url) + f"#/item/{item_id}")
    expect(page.locator("#similar .card").first).to_be_visible()
    expect(page.locator("h1")).to_have_text(f"The {item_id}")


def test_a_click_changes_the_next_list(page: Page) -> None:
    before = listed(page)
    page.locator("#list .card a.title").first.click()
    expect(page.locator("#similar .card").first).to_be_visible()
    expect(page.locator("#trail li").first).to_contain_text("view: The ")
    page.get_by_role("link", name="Amalgam").click()
    expect(page.locator("#list h2").first).to_have_text("For you")
    expect(page.locator("#similar")).to_have_count(0)
    after = listed(page)
    assert after != before
    opened = before[0][:3]
    assert sum(item[:3] == opened for item in after[:5]) > sum(i[:3] == opened for i in before[:5])


def test_controls_are_no_second_view(page: Page) -> None:
    views = page.locator("#trail li").filter(has_text="view: The tea-03")
    open_product(page, tea(3))
    for wish in ("3", "7"):
        with page.expect_response("**/v1/bought_together"):
            page.get_by_label("Diversity").fill(wish)
    expect(page.locator("#diversity-said")).to_have_text("0.7")
    expect(views).to_have_count(1)
    page.get_by_role("link", name="Amalgam").click()
    expect(page.locator("#similar")).to_have_count(0)
    open_product(page, tea(3))
    expect(views).to_have_count(2)


def test_a_scenario_of_the_rules_can_be_chosen(server: Server, page: Page) -> None:
    (server.home / "rules.toml").write_text("[scenarios.landing]\nhide = {categories = ['tea']}")
    headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    for _ in range(100):
        if "landing" in server.client.get("/v1/release", headers=headers).json()["scenarios"]:
            break
        page.wait_for_timeout(100)
    page.reload()
    expect(page.locator("#scenario option")).to_have_text([
        "home",
        "product",
        "cart",
        "email",
        "landing",
    ])
    with page.expect_response("**/v1/recommend"):
        page.get_by_label("Scenario").select_option("landing")
    expect(page.locator("#list .card").first).to_be_visible()
    expect(page.locator("#list .card[data-item^=tea]")).to_have_count(0)


def test_a_product_shows_what_is_like_it(page: Page) -> None:
    open_product(page, tea(3))
    similar = listed(page, "#similar")
    assert tea(3) not in similar
    assert sum(item.startswith("tea") for item in similar) >= len(similar) / 2


def test_search_finds_a_misspelt_word_and_filters_by_category(page: Page) -> None:
    page.get_by_label("Search the shop").fill("cup-07")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("h1")).to_have_text("“cup-07”")
    assert listed(page)[0] == cup(7)


def test_the_cart_is_bought(page: Page) -> None:
    open_product(page, cup(4))
    page.locator("#add").click()
    expect(page.locator("#cart-count")).to_have_text("1")
    page.locator("header .cart").click()
    page.locator("#buy").click()
    expect(page.locator("#cart-count")).to_have_text("0")
    expect(page.locator("#trail")).to_contain_text("purchase: The cup-04")


def test_two_releases_stand_side_by_side(page: Page) -> None:
    page.get_by_label("Beside it").select_option("2")
    expect(page.locator("#other .card").first).to_be_visible()
    assert listed(page, "#other") != []


def test_nothing_comes_from_elsewhere(server: Server, browser: Browser) -> None:
    context = browser.new_context()
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(server.url)
    expect(opened.get_by_role("alert")).to_be_visible()
    context.close()
    assert all(url.startswith((server.url, "data:")) for url in asked), asked


def test_the_page_is_refused_no_file_outside_its_folder(server: Server) -> None:
    for path in ("/page/../front_page.py", "/page/%2e%2e/front_page.py", "/page/"):
        assert server.client.get(path).status_code == 404


def test_the_files_are_those_of_the_project(server: Server) -> None:
    import services.front_page as front

    folder = Path(front.__file__).with_name("page")
    for path, name in front.FILES.items():
        answer = server.client.get(path)
        assert answer.content == (folder / name).read_bytes()
        assert "default-src 'self'" in answer.headers["content-security-policy"]
