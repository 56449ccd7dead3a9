"""Train the model's byte-level BPE vocabulary.

The pre-tokeniser is Llama 3's, character for character, so that a GGUF names it
"llama-bpe" and any engine reproduces the ids. A small vocabulary keeps the
embedding, which is not ternary, from outweighing the rest of the file.

Reads WORK/corpus/train.jsonl, writes WORK/tokenizer.json.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from corpus import DEFAULT_WORK

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def untrained() -> Tokenizer:
    """The tokenizer with every rule but no vocabulary yet."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def texts(path: Path) -> Iterator[str]:
    """The training documents."""
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)["text"]


def train(path: Path, vocabulary: int) -> Tokenizer:
    """Learn the merges; the two specials take the last ids, as in Llama 3."""
    tokenizer = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(path), trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (BOS, EOS)])
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS}:0 $A:0",
        pair=f"{BOS}:0 $A:0 {BOS}:1 $B:1",
        special_tokens=[(BOS, bos)],
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    parser.add_argument("--vocabulary", type=int, default=3072)
    args = parser.parse_args()
    tokenizer = train(args.work / "corpus/train.jsonl", args.vocabulary)
    tokenizer.save(str(args.work / "tokenizer.json"))
    text = (args.work / "corpus/heldout.txt").read_text()
    ids = tokenizer.encode(text).ids
    if tokenizer.decode(ids) != text:
        raise SystemExit("the held-out text does not survive encoding and decoding")
    density = len(text.encode()) / len(ids)
    print(f"{tokenizer.get_vocab_size()} tokens, {density:.3f} bytes a token on the held-out text")


if __name__ == "__main__":
    main()
