"""Sentiment of plain sentences, and the folder that keeps what was scored."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from features import sentiment
from features.items import build_item_features
from features.sentiment import SENTIMENTS, review_sentiment
from tests.features.shops import Click, as_bytes, at, lake

GOOD = (
    "Absolutely love it!",
    "Good, I would buy it again.",
    "Excellent quality and fast delivery.",
    "The best purchase I have made this year.",
    "Very comfortable, and it looks great.",
    "I am very happy with this.",
    "Works perfectly, thank you!",
    "A beautiful gift, my sister was delighted.",
    "Not bad at all.",
    "Great value for the price.",
    "Highly recommended, superb sound.",
    "It is so cute and fun!",
    "不错，会再买。",
    "太喜欢了！",
    "质量很好，非常满意",
    "物超所值，强烈推荐",
    "穿着很舒服，颜色也漂亮",
    "宝贝收到了，很喜欢，五星好评",
    "没有异味，质量不错",
    "很漂亮",
    "还会回购",
    "性价比高",
    "做工精致，包装也好看",
    "服务态度很好，下次还来",
)
BAD = (
    "Very disappointed.",
    "Terrible quality, it broke after a day.",
    "Awful. Waste of money.",
    "I hate the smell.",
    "Not good.",
    "The worst blender I have ever had.",
    "Poor packaging and it arrived damaged.",
    "It failed, and nobody helped me.",
    "This is useless.",
    "Horrible customer service, I am angry.",
    "It does not work, such a bad product.",
    "Ugly and uncomfortable.",
    "非常失望。",
    "不如预期。",
    "质量太差了，用了两天就坏了",
    "客服态度恶劣，要求退货",
    "不满意",
    "一点也不好用",
    "垃圾产品，别买",
    "有异味，刺鼻",
    "很不好",
    "掉色严重，后悔买了",
    "假货，骗人",
    "一般般",
)


@pytest.mark.parametrize(("texts", "sign"), [(GOOD, 1), (BAD, -1)])
def test_plain_sentences_have_the_sign_they_should(texts, sign):
    scores = review_sentiment(texts)
    assert scores.dtype == np.float32
    wrong = [text for text, score in zip(texts, scores, strict=True) if not 0 < sign * score <= 1]
    assert wrong == []


def test_a_text_without_words_has_no_score_and_each_is_scored_once(monkeypatch):
    assert np.isnan(review_sentiment([None, "", " \n", "123 !!", "👍"])).all()
    assert len(review_sentiment([])) == 0
    calls = []
    monkeypatch.setattr(sentiment, "_score", lambda text: calls.append(text) or 0.5)
    assert review_sentiment(["a", "b", "a", None])[[0, 1, 2]].tolist() == [0.5, 0.5, 0.5]
    assert sorted(calls) == ["a", "b"]


def test_the_language_is_told_by_the_share_of_han(monkeypatch):
    monkeypatch.setattr(sentiment, "_by_lexicon", lambda _: 9.0)
    monkeypatch.setattr(sentiment, "_by_pairs", lambda _: 9.0)
    chinese = review_sentiment([
        "iPhone 很好用",
        "好",
        "I bought this in a shop called 好, it is great",
    ])
    assert (chinese == 9).tolist() == [True, True, False]


def test_only_reviews_that_are_not_kept_are_scored(tmp_path, monkeypatch):
    def said(**texts: str | None) -> list[dict]:
        return [
            {c.REVIEW_ID: key, c.ITEM_ID: "i0", c.TEXT: text, c.EVENT_TIMESTAMP: at(1)}
            for key, text in texts.items()
        ]

    scored: list[str] = []
    honest = sentiment.review_sentiment
    monkeypatch.setattr(
        sentiment, "review_sentiment", lambda texts: scored.extend(texts) or honest(texts)
    )

    def build(root: str, **texts: str | None) -> dict:
        files = lake(
            tmp_path / root, [Click("a", "u", None, "i0", "view", 0)], reviews=said(**texts)
        )
        build_item_features(files, start=at(2), end=at(3), out=tmp_path / "rows")
        return pq.read_table(tmp_path / "rows").to_pylist()[0]

    row = build("one", r1="Great", r2=None, r3="  ")
    assert row[c.SENTIMENT_COUNT] == 1
    assert 0 < row[c.SENTIMENT_MEAN] <= 1
    assert sorted(scored) == ["  ", "Great"]
    build("two", r1="Great", r2=None, r3="  ", r0="很差")
    assert sorted(scored) == ["  ", "Great", "很差"]
    kept = pq.read_table(tmp_path / "review_sentiment")
    assert kept.schema.equals(SENTIMENTS)
    assert kept[c.REVIEW_ID].to_pylist() == ["r0", "r1", "r3"]
    shutil.rmtree(tmp_path / "review_sentiment")  # as erase does
    again = build("two", r1="Great", r2=None, r3="  ", r0="很差")
    assert again[c.SENTIMENT_COUNT] == 2
    assert as_bytes(pq.read_table(tmp_path / "review_sentiment")) == as_bytes(kept)
