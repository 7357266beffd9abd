"""Words of the generated shop, English and Chinese: category tree, brands, styles, phrases.

Data only. A change here changes the bytes of every generated shop: raise GENERATOR_VERSION.
"""

from typing import Final, NamedTuple


class Leaf(NamedTuple):
    """One leaf of the category tree."""

    path: str
    """`Department > Section > Leaf`."""
    noun: str
    noun_zh: str
    price: float
    """Typical price, in the shop's currency."""
    repeat_days: int
    """Days until it is used up and bought again; 0: it lasts."""
    gift: float
    """How the season moves its demand: log multiplier, 0 for none."""
    complement: str
    """Noun of the leaf that is looked at next."""


# The first eight leaves are one of each department: small shops take the head of the list.
LEAVES: Final = (
    Leaf("Home > Kitchen > Mugs", "Mug", "马克杯", 14, 0, 0.5, "Coffee Beans"),
    Leaf("Food > Coffee and Tea > Coffee", "Coffee Beans", "咖啡豆", 12, 16, 0.0, "Biscuits"),
    Leaf("Electronics > Audio > Headphones", "Headphones", "耳机", 89, 0, 1.3, "Speaker"),
    Leaf("Beauty > Skin > Face Cream", "Face Cream", "面霜", 24, 34, 0.3, "Face Mask"),
    Leaf("Sports > Outdoor > Tents", "Tent", "帐篷", 140, 0, -1.5, "Sleeping Bag"),
    Leaf("Kids > Toys > Building Blocks", "Building Blocks", "积木", 35, 0, 1.5, "Puzzle"),
    Leaf("Fashion > Women > Dresses", "Dress", "连衣裙", 59, 0, -0.9, "Handbag"),
    Leaf("Pets > Cats > Cat Food", "Cat Food", "猫粮", 18, 11, -0.2, "Cat Litter"),
    Leaf("Home > Living > Candles", "Candle", "香薰蜡烛", 16, 28, 1.4, "Lamp"),
    Leaf("Food > Coffee and Tea > Tea", "Green Tea", "绿茶", 11, 22, 0.2, "Teapot"),
    Leaf("Electronics > Audio > Speakers", "Speaker", "音箱", 75, 0, 1.2, "Cable"),
    Leaf("Beauty > Hair > Shampoo", "Shampoo", "洗发水", 9, 26, -0.2, "Conditioner"),
    Leaf("Sports > Running > Shoes", "Running Shoes", "跑鞋", 95, 0, -0.8, "Running Socks"),
    Leaf("Kids > Baby > Nappies", "Nappies", "纸尿裤", 22, 9, -0.2, "Baby Wipes"),
    Leaf("Fashion > Men > Sweaters", "Sweater", "毛衣", 54, 0, 1.1, "Shirt"),
    Leaf("Pets > Dogs > Dog Food", "Dog Food", "狗粮", 26, 14, -0.2, "Dog Toy"),
    Leaf("Home > Kitchen > Frying Pans", "Frying Pan", "平底锅", 39, 0, 0.2, "Olive Oil"),
    Leaf("Food > Pantry > Olive Oil", "Olive Oil", "橄榄油", 13, 32, 0.0, "Pasta"),
    Leaf("Electronics > Photo > Cameras", "Camera", "相机", 320, 0, 1.1, "Memory Card"),
    Leaf("Beauty > Skin > Sunscreen", "Sunscreen", "防晒霜", 17, 40, -1.8, "Face Cream"),
    Leaf("Sports > Outdoor > Sleeping Bags", "Sleeping Bag", "睡袋", 80, 0, -1.2, "Backpack"),
    Leaf("Kids > Toys > Puzzles", "Puzzle", "拼图", 15, 0, 1.4, "Doll"),
    Leaf("Fashion > Women > Scarves", "Scarf", "围巾", 25, 0, 1.5, "Handbag"),
    Leaf("Pets > Cats > Cat Litter", "Cat Litter", "猫砂", 12, 15, -0.2, "Cat Food"),
    Leaf("Home > Living > Lamps", "Lamp", "台灯", 48, 0, 0.8, "Cushion"),
    Leaf("Food > Coffee and Tea > Biscuits", "Biscuits", "饼干", 5, 12, 0.9, "Green Tea"),
    Leaf("Electronics > Audio > Cables", "Cable", "数据线", 9, 0, 0.0, "Headphones"),
    Leaf("Beauty > Hair > Conditioner", "Conditioner", "护发素", 10, 28, -0.2, "Shampoo"),
    Leaf("Sports > Running > Socks", "Running Socks", "跑步袜", 12, 0, 0.2, "Sports Watch"),
    Leaf("Kids > Baby > Wipes", "Baby Wipes", "婴儿湿巾", 4, 10, -0.2, "Nappies"),
    Leaf("Fashion > Men > Shirts", "Shirt", "衬衫", 39, 0, -0.2, "Belt"),
    Leaf("Pets > Dogs > Dog Toys", "Dog Toy", "狗玩具", 9, 0, 0.6, "Lead"),
    Leaf("Home > Kitchen > Teapots", "Teapot", "茶壶", 32, 0, 0.9, "Green Tea"),
    Leaf("Food > Pantry > Pasta", "Pasta", "意大利面", 3, 18, 0.0, "Olive Oil"),
    Leaf("Electronics > Photo > Memory Cards", "Memory Card", "存储卡", 22, 0, 0.4, "Tripod"),
    Leaf("Beauty > Skin > Face Masks", "Face Mask", "面膜", 6, 20, 0.3, "Face Cream"),
    Leaf("Sports > Outdoor > Backpacks", "Backpack", "背包", 65, 0, -0.9, "Tent"),
    Leaf("Kids > Toys > Dolls", "Doll", "娃娃", 28, 0, 1.4, "Building Blocks"),
    Leaf("Fashion > Women > Handbags", "Handbag", "手提包", 79, 0, 1.2, "Scarf"),
    Leaf("Pets > Cats > Scratching Posts", "Scratching Post", "猫抓柱", 42, 0, 0.0, "Cat Food"),
    Leaf("Home > Living > Cushions", "Cushion", "抱枕", 21, 0, 0.7, "Candle"),
    Leaf("Food > Pantry > Honey", "Honey", "蜂蜜", 8, 38, 0.7, "Biscuits"),
    Leaf("Electronics > Photo > Tripods", "Tripod", "三脚架", 55, 0, 0.5, "Camera"),
    Leaf("Beauty > Hair > Hair Dryers", "Hair Dryer", "吹风机", 49, 0, 0.8, "Conditioner"),
    Leaf("Sports > Running > Watches", "Sports Watch", "运动手表", 180, 0, 1.0, "Running Shoes"),
    Leaf("Kids > Baby > Bottles", "Baby Bottle", "奶瓶", 11, 0, -0.2, "Nappies"),
    Leaf("Fashion > Men > Belts", "Belt", "皮带", 29, 0, 0.6, "Shirt"),
    Leaf("Pets > Dogs > Leads", "Lead", "牵引绳", 16, 0, 0.2, "Dog Food"),
)

# A style runs through all categories (a Nordic lamp, a Nordic mug); shoppers like styles.
STYLES: Final = (
    ("Nordic", "北欧"), ("Vintage", "复古"), ("Minimalist", "极简"), ("Floral", "花卉"),
    ("Walnut", "胡桃色"), ("Midnight", "午夜蓝"), ("Coral", "珊瑚色"), ("Botanical", "植物"),
    ("Classic", "经典"), ("Urban", "都市"), ("Alpine", "高山"), ("Velvet", "丝绒"),
    ("Organic", "有机"), ("Retro", "怀旧"), ("Graphite", "石墨灰"), ("Sunrise", "日出"),
    ("Bamboo", "竹制"), ("Marble", "大理石"), ("Amber", "琥珀"), ("Ocean", "海洋"),
    ("Rustic", "乡村"), ("Pastel", "马卡龙"), ("Copper", "铜色"), ("Monochrome", "黑白"),
)  # fmt: skip

# Brands: a prefix and a suffix; a department has up to PREFIXES of them, with its own suffix.
BRAND_PREFIXES: Final = ("Nor", "Ara", "Vel", "Kin", "Lum", "Tori", "Bel", "Oro", "Sil", "Mira")
BRAND_SUFFIXES: Final = {
    "Home": "haus", "Food": "terra", "Electronics": "tronic", "Beauty": "bella",
    "Sports": "peak", "Kids": "joy", "Fashion": "moda", "Pets": "paw",
}  # fmt: skip

COUNTRIES: Final = (
    ("DE", 0.30), ("FR", 0.16), ("GB", 0.14), ("US", 0.10),
    ("CN", 0.18), ("SG", 0.05), ("NL", 0.07),
)  # fmt: skip
CHINESE_COUNTRIES: Final = ("CN", "SG")

QUALITY_WORDS: Final = (("Basic", "基础款"), ("Comfort", "舒适款"), ("Premium", "高级款"))

DESCRIPTION_ENDS: Final = (
    "Made to be used every day and easy to look after.",
    "Chosen by our buyers, tested at home, packed without plastic.",
    "A quiet favourite that goes with everything else in its style.",
    "Small batch, carefully finished, with a two year guarantee.",
)
DESCRIPTION_ENDS_ZH: Final = (
    "适合每天使用，清洁保养都很方便。",
    "由买手精心挑选，环保包装，送礼自用两相宜。",
    "与同系列其他商品搭配，效果更佳。",
    "小批量制作，做工细致，享两年质保。",
)

# Review phrases by stars, 1 to 5.
REVIEW_OPENINGS: Final = (
    "Very disappointed.",
    "Not what I hoped for.",
    "It is all right.",
    "Good, I would buy it again.",
    "Absolutely love it!",
)
REVIEW_OPENINGS_ZH: Final = (
    "非常失望。",
    "不如预期。",
    "还可以。",
    "不错，会再买。",
    "太喜欢了！",
)
REVIEW_ENDINGS: Final = (
    "Delivery was quick.",
    "The size is as described.",
    "Looks just like the picture.",
    "My sister has one too.",
    "The box was dented.",
)
REVIEW_ENDINGS_ZH: Final = (
    "物流很快。",
    "尺寸与描述一致。",
    "和图片一样。",
    "朋友也买了一个。",
    "包装有点破损。",
)
