"""A test set of synonyms and spelling: a shop of 100 products, English and Chinese, and queries as
shoppers mistype, shorten and rename them, each with the product that is meant.

Every product has neighbours that differ from it in a word or two.
"""

from typing import Final

import numpy as np

from models.base import Catalogue

_ENGLISH: Final = """
mouse-wl | Wireless optical mouse | computer > mice | Norvo
mouse-gm | Gaming mouse with cable | computer > mice | Norvo
mouse-pad | Mouse pad, large | computer > accessories | Norvo
kb-mech | Mechanical keyboard, brown switches | computer > keyboards | Keyra
kb-bt | Slim Bluetooth keyboard | computer > keyboards | Keyra
nb-14 | Notebook 14 inch, 16 GB memory | computer > notebooks | Keyra
nb-15 | Notebook 15 inch, 8 GB memory | computer > notebooks | Tavio
sleeve | Notebook sleeve 14 inch | computer > accessories | Keyra
monitor-27 | Monitor 27 inch, 4K | computer > monitors | Tavio
monitor-arm | Monitor arm for the desk | computer > accessories | Tavio
headset | Stereo headset MG5350 with microphone | audio > headphones | Sonda
phones-over | Over-ear headphones, noise cancelling | audio > headphones | Sonda
phones-in | In-ear headphones for sports | audio > headphones | Tavio
speaker | Portable loudspeaker, waterproof | audio > speakers | Sonda
soundbar | Soundbar for the television | audio > speakers | Sonda
charger | Fast charger 65 W with USB-C | electronics > power | Volta
powerbank | Power bank 20000 mAh | electronics > power | Volta
battery-aa | Rechargeable batteries AA, pack of 4 | electronics > power | Volta
battery-9v | Alkaline battery 9 V | electronics > power | Volta
cable-c | USB-C cable 2 m | electronics > cables | Volta
cable-hdmi | HDMI cable 3 m | electronics > cables | Volta
bulb | LED light bulb E27 | home > lighting | Lumo
lamp-desk | Desk lamp, dimmable | home > lighting | Lumo
lamp-floor | Floor lamp with shade | home > lighting | Lumo
torch | Torch with magnet | home > lighting | Lumo
kettle | Electric kettle 1.7 l | kitchen > appliances | Brevo
toaster | Toaster for two slices | kitchen > appliances | Brevo
blender | Hand blender, stainless steel | kitchen > appliances | Brevo
espresso | Espresso machine with milk frother | kitchen > appliances | Brevo
fridge | Refrigerator with freezer, 250 l | kitchen > appliances | Frosta
freezer | Chest freezer 100 l | kitchen > appliances | Frosta
dishwasher | Dishwasher, 12 places | kitchen > appliances | Frosta
pan | Frying pan 28 cm, non-stick | kitchen > cookware | Brevo
pot | Cooking pot with glass lid | kitchen > cookware | Brevo
knife-bread | Bread knife, serrated | kitchen > knives | Klinge
knife-chef | Chef's knife 20 cm | kitchen > knives | Klinge
scissors | Kitchen scissors | kitchen > knives | Klinge
board | Chopping board, bamboo | kitchen > cookware | Klinge
towel | Bath towel, cotton | home > bathroom | Sovi
curtain | Shower curtain | home > bathroom | Sovi
vacuum | Vacuum cleaner without bag | home > cleaning | Frosta
mop | Floor mop with bucket | home > cleaning | Sovi
sofa | Three-seat sofa, grey | home > furniture | Holm
shelf | Bookshelf, oak | home > furniture | Holm
chair | Office chair with armrests | home > furniture | Holm
table | Dining table, extendable | home > furniture | Holm
mattress | Mattress 90 x 200 | home > furniture | Holm
jacket | Rain jacket for women | clothing > jackets | Regna
trousers | Hiking trousers for men | clothing > trousers | Regna
jumper | Wool jumper with round neck | clothing > jumpers | Regna
sneakers | Running shoes, size 42 | clothing > shoes | Laufo
boots | Hiking boots, leather | clothing > shoes | Laufo
glasses | Sunglasses, polarised | clothing > accessories | Regna
pram | Foldable pram | baby > on the way | Kindo
nappies | Nappies size 4, 60 pieces | baby > care | Kindo
tent | Tent for three persons | outdoor > camping | Regna
bag-sleep | Sleeping bag, light | outdoor > camping | Regna
backpack | Trekking backpack 45 l | outdoor > bags | Regna
bottle | Drinking bottle 0.75 l, steel | outdoor > bags | Regna
bike | City bicycle 28 inch | outdoor > bicycles | Velo
pump | Bicycle pump | outdoor > bicycles | Velo
lock | Bicycle lock with key | outdoor > bicycles | Velo
"""
_CHINESE: Final = """
z-mouse-wl | 无线鼠标 静音 办公 | 电脑 > 鼠标 | 罗技
z-mouse-gm | 有线游戏鼠标 | 电脑 > 鼠标 | 罗技
z-mouse-pad | 大号鼠标垫 防滑 | 电脑 > 配件 | 罗技
z-kb-mech | 机械键盘 青轴 | 电脑 > 键盘 | 罗技
z-kb-bt | 蓝牙键盘 轻薄 | 电脑 > 键盘 | 雷蛇
z-nb | 笔记本电脑 14英寸 | 电脑 > 笔记本 | 联想
z-nb-bag | 笔记本电脑包 防水 | 电脑 > 配件 | 联想
z-paper | 笔记本 本子 100页 | 文具 > 纸品 | 晨光
z-pen | 中性笔 黑色 12支 | 文具 > 笔 | 晨光
z-screen | 显示器 27英寸 高清 | 电脑 > 显示器 | 联想
z-phones-bt | 蓝牙耳机 降噪 运动 | 音频 > 耳机 | 索尼
z-phones-over | 头戴式耳机 有线 | 音频 > 耳机 | 索尼
z-speaker | 便携音箱 防水 | 音频 > 音箱 | 索尼
z-charger | 快速充电器 65瓦 | 数码 > 电源 | 安克
z-powerbank | 充电宝 20000毫安 | 数码 > 电源 | 安克
z-battery | 五号充电电池 4节 | 数码 > 电源 | 南孚
z-cable | 数据线 2米 快充 | 数码 > 线材 | 安克
z-lamp-desk | 护眼台灯 可调光 | 家居 > 灯具 | 米家
z-lamp-floor | 落地灯 客厅 | 家居 > 灯具 | 米家
z-bulb | 节能灯泡 | 家居 > 灯具 | 欧普
z-kettle | 电热水壶 1.7升 | 厨房 > 电器 | 美的
z-ricecooker | 电饭煲 4升 智能 | 厨房 > 电器 | 美的
z-fridge | 双门冰箱 节能 | 厨房 > 电器 | 海尔
z-washer | 滚筒洗衣机 10公斤 | 家居 > 电器 | 海尔
z-wok | 铁炒锅 无涂层 | 厨房 > 锅具 | 苏泊尔
z-pot | 不锈钢汤锅 | 厨房 > 锅具 | 苏泊尔
z-thermos | 保温杯 500毫升 | 厨房 > 杯壶 | 膳魔师
z-glass | 玻璃杯 6只装 | 厨房 > 杯壶 | 乐美雅
z-teapot | 玻璃茶壶 耐热 | 厨房 > 杯壶 | 乐美雅
z-knife | 厨房菜刀 | 厨房 > 刀具 | 张小泉
z-towel | 纯棉毛巾 | 家居 > 浴室 | 洁丽雅
z-bathtowel | 加厚浴巾 | 家居 > 浴室 | 洁丽雅
z-sofa | 三人沙发 布艺 | 家居 > 家具 | 顾家
z-mattress | 乳胶床垫 1.8米 | 家居 > 家具 | 顾家
z-shoes-run | 男士跑步鞋 透气 | 服饰 > 鞋 | 李宁
z-shoes-leather | 男士皮鞋 商务 | 服饰 > 鞋 | 奥康
z-down | 女士羽绒服 长款 | 服饰 > 外套 | 波司登
z-tent | 户外帐篷 三人 | 户外 > 露营 | 探路者
"""
SYNONYMS: Final = (
    ("laptop", "notebook", "笔记本电脑", "手提电脑"),
    ("earphones", "headphones", "耳机"),
    ("fridge", "refrigerator", "冰箱"),
    ("couch", "sofa", "沙发"),
    ("flashlight", "torch", "手电筒"),
    ("sweater", "jumper", "pullover"),
    ("trainers", "sneakers", "running shoes"),
    ("pants", "trousers"),
    ("stroller", "pram"),
    ("diapers", "nappies"),
    ("skillet", "frying pan"),
    ("cutting board", "chopping board"),
    ("hoover", "vacuum cleaner"),
    ("power bank", "充电宝", "移动电源"),
    ("mouse", "鼠标", "滑鼠"),
    ("电饭煲", "电饭锅"),
    ("音箱", "音响", "speaker"),
    ("显示器", "屏幕", "monitor"),
    ("bike", "bicycle", "cycle"),
)
QUERIES: Final = {
    "as written": """
        wireless mouse > mouse-wl; gaming mouse > mouse-gm; mechanical keyboard > kb-mech
        notebook 16 gb > nb-14; mg5350 > headset; hdmi cable > cable-hdmi; bread knife > knife-bread
        norvo pad > mouse-pad; chef's knife > knife-chef; usb-c cable > cable-c
    """,
    "one mistake": """
        wirelss mouse > mouse-wl; mechancal keyboard > kb-mech; keybaord bluetooth > kb-bt
        headfones noise > phones-over; loudspeeker > speaker; rechargable battery > battery-aa
        espreso machine > espresso; toastr > toaster; refridgerator > fridge; dishwaser > dishwasher
        frying pen > pan; scisors > scissors; matress > mattress; bicyle pump > pump
        sleping bag > bag-sleep; jaket rain > jacket; curtian > curtain; blendr > blender
        monitr arm > monitor-arm; sunglases > glasses; vaccum cleaner > vacuum
    """,
    "two mistakes": """
        mechnical keybord > kb-mech; recharchable baterries > battery-aa; refrigirater > fridge
        wireles mosue > mouse-wl; expresso mashine > espresso; micorphone hedset > headset
        trekkng bakpack > backpack; polarized sunglases > glasses; moniter arm > monitor-arm
    """,
    "plural or singular": """
        kettles > kettle; rechargeable battery > battery-aa; knives bread > knife-bread
        curtains > curtain; hiking boot > boots; mattresses > mattress; torches > torch
        dining tables > table; notebook sleeves > sleeve; office chairs > chair; nappy > nappies
    """,
    "one word or two": """
        mousepad > mouse-pad; note book sleeve > sleeve; powerbank > powerbank; head set > headset
        sound bar > soundbar; loud speaker > speaker; book shelf > shelf; back pack > backpack
        lightbulb > bulb; dish washer > dishwasher; sun glasses > glasses; sleepingbag > bag-sleep
    """,
    "unfinished": """
        mechan > kb-mech; espr > espresso; refrig > fridge; dimm > lamp-desk; trekk > backpack
        extend > table; polar > glasses
    """,
    "synonym": """
        laptop 16 gb > nb-14; laptop sleeve > sleeve; earphones for sports > phones-in
        fridge > fridge; couch > sofa; flashlight > torch; wool sweater > jumper
        trainers > sneakers; hiking pants > trousers; stroller > pram; diapers > nappies
        skillet > pan; cutting board > board; hoover > vacuum; bike lock > lock
        city bike > bike; noise cancelling earphones > phones-over
    """,
    "Chinese as written": """
        无线鼠标 > z-mouse-wl; 机械键盘 > z-kb-mech; 蓝牙耳机 > z-phones-bt; 保温杯 > z-thermos
        护眼台灯 > z-lamp-desk; 羽绒服 > z-down; 罗技 鼠标垫 > z-mouse-pad; 数据线 > z-cable
    """,
    "Chinese without spaces, other order": """
        静音无线鼠标 > z-mouse-wl; 耳机蓝牙降噪 > z-phones-bt; 男士透气跑步鞋 > z-shoes-run
        青轴机械键盘 > z-kb-mech; 不锈钢锅 > z-pot; 罗技游戏鼠标 > z-mouse-gm
        防水电脑包 > z-nb-bag; 三人户外帐篷 > z-tent; 玻璃壶 > z-teapot; 女士长款羽绒服 > z-down
    """,
    "Chinese with a wrong character": """
        无线鼠飘 > z-mouse-wl; 机戒键盘 > z-kb-mech; 蓝芽耳机 > z-phones-bt; 保温背 > z-thermos
        羽戎服 > z-down; 洗衣鸡 > z-washer; 电饭堡 > z-ricecooker; 落地登 > z-lamp-floor
    """,
    "Chinese, traditional": """
        無線滑鼠 > z-mouse-wl; 機械鍵盤 > z-kb-mech; 藍牙耳機 > z-phones-bt; 護眼檯燈 > z-lamp-desk
        顯示器 > z-screen; 電熱水壺 > z-kettle; 節能燈泡 > z-bulb; 戶外帳篷 > z-tent
        純棉毛巾 > z-towel; 數據線 > z-cable; 鐵炒鍋 > z-wok; 乳膠床墊 > z-mattress
    """,
    "Chinese synonym, or another language": """
        移动电源 > z-powerbank; 电饭锅 > z-ricecooker; 手提电脑 > z-nb; 音响 > z-speaker
        屏幕 27英寸 > z-screen; 降噪 earphones > z-phones-bt; 罗技 mouse 无线 > z-mouse-wl
        双门 fridge > z-fridge; 三人 couch > z-sofa; 行动电源 > z-powerbank
    """,
}
"""Kind of query -> `query > item_id`, by lines and `;`."""


def catalogue() -> Catalogue:
    """Return the products, by item_id."""
    lines = sorted((_ENGLISH + _CHINESE).strip().splitlines())
    rows = [[part.strip() for part in line.split(" | ")] for line in lines if line]
    ids, titles, categories, brands = zip(*rows, strict=True)
    none = ("",) * len(ids)
    prices = np.full(len(ids), np.nan, np.float32)
    return Catalogue(ids, titles, none, categories, brands, ((),) * len(ids), prices)


def queries() -> list[tuple[str, str, str]]:
    """Return (kind, query, item_id of the product that is meant)."""
    return [
        (kind, query.strip(), meant.strip())
        for kind, text in QUERIES.items()
        for pair in text.replace("\n", ";").split(";")
        if pair.strip()
        for query, meant in (pair.split(" > "),)
    ]
