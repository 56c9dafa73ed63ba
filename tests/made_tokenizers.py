"""Small tokenizers of many kinds, trained on a few lines."""

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "def wrap(t):\n    return '<b>' + t + '</b>'\n",
    "Write a function that adds 3 to x. é ü <div>",
    "    x  =  1\n\n\ty = [M]",
]
SPECIAL = ["<unk>", "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[MASK]"]
KINDS = ("bytes", "first", "always", "never", "llama", "unigram", "wordpiece")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def made_tokenizer(
    kind="bytes", *, post=None, template=CHATML, normalizer=None, more=(), prefix=False, **flags
):
    """A fast tokenizer.

    Args:
        kind: ``bytes`` is GPT-2's, ``llama`` has a normalizer for a pre-tokenizer; ``first``,
            ``always`` and ``never`` say where SentencePiece's blank goes in front.
        post: what the post-processor makes of a text: ``<s> $A``, ``$A </s>``, ...
        more: added tokens that are not special.
        prefix: whether ``bytes`` puts a blank in front.
        flags: of the special tokens.
    """
    special = [
        tokenizers.AddedToken(text, special=True, **{"normalized": False, **flags})
        for text in SPECIAL
    ]
    options = {"show_progress": False, "special_tokens": special}
    if kind == "bytes":
        core = tokenizers.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, **options)
    elif kind == "unigram":
        core = tokenizers.Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=150, unk_token="<unk>", **options)
    elif kind == "wordpiece":
        core = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, **options)
    else:
        core = tokenizers.Tokenizer(
            models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        )
        if kind == "llama":
            blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            normalizer = normalizers.Sequence([*([normalizer] if normalizer else []), *blanks])
        else:
            core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        core.decoder = decoders.Metaspace()
        options["special_tokens"] = [*special, *BYTES]
        trainer = trainers.BpeTrainer(vocab_size=600, **options)
    if normalizer:
        core.normalizer = normalizer
    core.train_from_iterator(CORPUS, trainer)
    core.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in more])
    if post:
        ids = [(text, core.token_to_id(text)) for text in ("<s>", "</s>")]
        core.post_processor = processors.TemplateProcessing(single=post, special_tokens=ids)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    fast.chat_template = template
    return fast
