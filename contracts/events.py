"""Event types: their names, their fixed codes, and what they weigh as relevance."""

from typing import Final

# The position is the code that arrays and the online store hold: append only, never reorder.
EVENT_TYPES: Final = (
    "view",
    "click",
    "cart",
    "purchase",
    "return",
    "rating",
    "search_click",
    "dislike",
    "hide",
)
EVENT_CODES: Final = {name: code for code, name in enumerate(EVENT_TYPES)}
VIEW, CLICK, CART, PURCHASE, RETURN, RATING_EVENT, SEARCH_CLICK, DISLIKE, HIDE = range(9)

# Grade of an item as a target of a session. Ratings, returns, dislikes and hides are no targets.
TARGET_GRADES: Final = {"purchase": 3, "cart": 2, "click": 1, "search_click": 1, "view": 1}

# What an event adds to the popularity of its item, and by default to a history: integers, so that
# parallel sums are exact.
EVENT_WEIGHTS: Final = {
    "view": 1,
    "click": 2,
    "search_click": 2,
    "cart": 5,
    "purchase": 10,
    "rating": 5,
    "return": 0,
    "dislike": 0,
    "hide": 0,
}

# By default, how strongly an event speaks against its item in the models.
AGAINST_WEIGHTS: Final = {"return": -1, "dislike": -5, "hide": -5}
