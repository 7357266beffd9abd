"""A small shop to search, English and Chinese, whose right answers can be seen."""

import numpy as np

from models.base import Catalogue
from models.search.engine import SearchConfig, SearchIndex

ROWS = (
    # title, description, category, brand, tags, price
    ("Wireless optical mouse", "Quiet clicks", "computer > mice", "Norvo", ("black",), 19.0),
    ("Gaming mouse pad", "Soft cloth", "computer > accessories", "Norvo", ("black",), 9.0),
    ("Mechanical keyboard", "Brown switches", "computer > keyboards", "Keyra", ("white",), 79.0),
    ("Notebook sleeve 14 inch", "Padded", "computer > accessories", "Keyra", ("grey",), 15.0),
    ("Notebook 14 inch 16 GB", "Thin and light", "computer > notebooks", "Keyra", ("grey",), 900.0),
    ("Stereo headset MG5350", "With microphone", "audio > headphones", "Sonda", ("black",), 49.0),
    ("Over-ear headphones", "Noise cancelling", "audio > headphones", "Sonda", ("white",), 199.0),
    ("无线鼠标", "静音 办公", "电脑 > 鼠标", "罗技", ("黑色",), 89.0),
    ("机械键盘", "青轴", "电脑 > 键盘", "罗技", ("白色",), 299.0),
    ("蓝牙耳机", "降噪 运动", "音频 > 耳机", "索尼", ("黑色",), 499.0),
    ("桌面台灯", "护眼 可调光", "家居 > 灯具", "米家", ("白色",), 129.0),
    ("Desk lamp", "Dimmable", "home > lighting", "Lumo", ("white",), float("nan")),
    ("Rechargeable battery AA", "Pack of 4", "home > batteries", "Lumo", (), 12.0),
)
SYNONYMS = (
    ("laptop", "notebook"),
    ("earphones", "headphones", "耳机"),
    ("mouse", "鼠标"),
    ("desk light", "desk lamp", "台灯"),
    ("手提电脑", "notebook"),
)


def catalogue() -> Catalogue:
    """Return the rows; item_id is "p" and the row."""
    titles, descriptions, categories, brands, tags, prices = zip(*ROWS, strict=True)
    ids = tuple(f"p{row}" for row in range(len(ROWS)))
    return Catalogue(
        ids, titles, descriptions, categories, brands, tags, np.array(prices, np.float32)
    )


def index() -> SearchIndex:
    """Return an index of the shop with its synonyms."""
    return SearchIndex.build(catalogue(), SearchConfig(synonyms=SYNONYMS), seed=7)


def many(n_items: int, seed: int) -> Catalogue:
    """Return random titles of a made vocabulary, for sizes and speeds."""
    random = np.random.default_rng(seed)
    syllables = np.array(["ka", "mo", "ri", "ten", "so", "bel", "nu", "vor", "li", "da"])
    made = {"".join(row) for row in syllables[random.integers(0, 10, (3000, 3))]}
    words = np.array(sorted(made))
    titles = tuple(" ".join(row) for row in words[random.integers(0, len(words), (n_items, 6))])
    brands = tuple(words[random.integers(0, 50, n_items)].tolist())
    return Catalogue(
        item_ids=tuple(f"i{row}" for row in range(n_items)),
        titles=titles,
        descriptions=titles[::-1],
        categories=tuple(f"c{row % 7} > d{row % 31}" for row in range(n_items)),
        brands=brands,
        tags=((),) * n_items,
        prices=random.uniform(1, 100, n_items).astype(np.float32),
    )
