"""Texts for the tests of the data room."""

CHINESE = ["你好，世界。", "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。", "人之初，性本善。" * 20]
TEXTS = [
    *CHINESE,
    "def f(x):\n\treturn x\n",
    "emoji 😀👩‍👩‍👧 é e\u0301",
    *(f"text {i} " * i for i in range(1, 60)),
]
