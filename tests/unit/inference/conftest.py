"""A tiny random teacher."""

import pytest
import torch
import transformers


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a random two-layer Llama, its vocabulary one token per byte."""
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<end>", "<user>", *alphabet])}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<end>", pad_token="<end>", bos_token="<user>"
    )
    tokenizer.chat_template = "<user>{{ messages[0]['content'] }}<end>"
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=1,
            eos_token_id=0,
            initializer_range=0.5,
        )
    )
    # Defaults that a teacher brings along must not reach the sampling.
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, top_k=1, top_p=0.1, repetition_penalty=5.0, eos_token_id=0
    )
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
