#!/usr/bin/env python3
"""Writes what the pre-tokenizers of crates/rotor-engine/src/tokenizer/rules.rs are held against.

    python -m venv .venv && .venv/bin/pip install regex
    .venv/bin/python tools/pretokenizer_golden.py crates/rotor-engine/tests/data/pretokenizers.json

The expressions stand here once more, as the models' own tokenizer.json or llama.cpp have them, and run on PyPI's `regex`,
which shares no code with the engine that rotor uses. The file has lines of mixed text and, for each rule and each block of
lines, a hash (FNV-1a, 64 bits) of how long the pieces are: 64 lines a block keep it small, and a line by itself can be
looked at with --line.
"""

import argparse
import json
import random

import regex

BLOCK = 64
LINES = 3200

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 "
    "3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 "
    "1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC "
    "1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D "
    "212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B "
    "A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB "
    "10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)


def letters(ranges):
    return "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in ranges.split())


def llama3(numbers, letter=r"\p{L}", other=r"[^\s\p{L}\p{N}]"):
    return rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{letter}+|{numbers}| ?{other}+[\r\n]*|{SPACES}"


def cased(numbers, ending=""):
    glue = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{glue}{UPPER}*{LOWER}+{ending}|{glue}{UPPER}+{LOWER}*{ending}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"


DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + SPACES
)
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

RULES = {
    "llama-bpe": [llama3(r"\p{N}{1,3}")],
    "qwen2": [llama3(r"\p{N}")],
    "qwen35": [llama3(r"\p{N}", r"[\p{L}\p{M}]", r"[^\s\p{L}\p{M}\p{N}]")],
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "falcon_e": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9]"],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
    "deepseek-llm": [
        r"[\r\n]",
        rf"\s?[{letters(CASED)}]+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+\Z",
        CJK,
        r"\p{N}+",
    ],
    "tekken": [cased(r"\p{N}")],
    "gpt-4o": [cased(r"\p{N}{1,3}", CONTRACTION + "?")],
    "minicpm5": [r"\p{N}{1,3}", llama3(r"\p{N}+")],
}

WORDS = """the of and to in is I'm don't they'll we've IT'S can't he'd WE'LL naïve café Việt Straße ŁÓDŹ ΣΊΣΥΦΟΣ Привет ДОМ
    мира שלום مَرْحَبًا नमस्ते हिन्दी ภาษาไทย ពាក្យ 中文字 漢字 日本語のテキスト カタカナ 한국어 한글 ქართული ՀԱՅ ᏣᎳᎩ ǅungla
    iPhone HTTPServer camelCase snake_case SCREAMING_CASE x1y2 v1.2.3 0x1F 1e-5 e\u0301te\u0301 o\u0308 ﬁ Ａｂｃ ｱｲｳ ªº""".split()
NUMBERS = ["0", "7", "42", "123", "1234", "1234567890", "3.14", "1,000", "٣٤٥٦", "१२३", "²³", "Ⅷ", "½", "㊿", "１２３４"]
SIGNS = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¿«»—…„。、「」！？：（）‘’“”¢£°×€→∑♥§") + ["...", "!?", "//", "/*", "==", "->", "::"]
OTHERS = ["🦙", "👍🏽", "🇫🇷", "👩‍👩‍👧", "\u200b", "\ufe0f", "\u00ad", "\u0301", "\ue000", "\x01", "\x7f", "<|im_end|>"]
BLANKS = [" ", " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\v", "      "]


def line(random):
    """Words, numbers and signs with some blank between, or none."""
    kinds = random.choice([[WORDS], [WORDS, NUMBERS, SIGNS], [SIGNS, OTHERS], [NUMBERS], [WORDS, SIGNS, NUMBERS, OTHERS]])
    text = random.choice(["", "", " ", "\n", "  "])
    for _ in range(random.randrange(1, 16)):
        text += random.choice(random.choice(kinds))
        text += random.choice(BLANKS) if random.random() < 0.7 else ""
    return text


def cut(patterns, text):
    """Each expression cuts the pieces that the one before left; text between matches stays."""
    pieces = [text]
    for pattern in patterns:
        after = []
        for piece in pieces:
            end = 0
            for match in pattern.finditer(piece):
                if match.start() < match.end():
                    after += [piece[end : match.start()], match.group()]
                    end = match.end()
            after.append(piece[end:])
        pieces = [piece for piece in after if piece]
    return pieces


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("output", nargs="?")
    arguments.add_argument("--line", help="show the pieces of this text for every rule")
    arguments = arguments.parse_args()
    rules = {name: [regex.compile(pattern, regex.V0) for pattern in patterns] for name, patterns in RULES.items()}
    if arguments.line is not None:
        for name, patterns in rules.items():
            print(name, cut(patterns, arguments.line))
        return
    generator = random.Random(10)
    lines = [line(generator) for _ in range(LINES)]
    golden = {"block": BLOCK, "lines": lines, "rules": {}}
    for name, patterns in rules.items():
        lengths = [",".join(str(len(piece.encode())) for piece in cut(patterns, text)) for text in lines]
        blocks = ["\n".join(lengths[at : at + BLOCK]) for at in range(0, LINES, BLOCK)]
        golden["rules"][name] = " ".join(fnv1a(block) for block in blocks)
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(golden, file, ensure_ascii=False, indent=0)
        file.write("\n")


if __name__ == "__main__":
    main()
