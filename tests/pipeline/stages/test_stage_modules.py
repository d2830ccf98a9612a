"""Stages one after another give the bits of the model in one piece: loss, gradients and buffers, at every cut."""

from __future__ import annotations

import warnings

import pytest
import torch
from stage_chain import check, recorded
from stage_models import (
    WIDTH,
    WORDS,
    ConvNet,
    Odd,
    Residual,
    Shared,
    TiedGPT,
    Writes,
    build,
    ids,
    of_anything,
    of_logits,
    transformer,
)
from torch import nn

from manyhands.pipeline.stages import StageModule

MASK = {"input_ids": ids(), "attention_mask": (ids() >= 0).long().index_fill(1, torch.tensor([6, 7]), 0)}


def test_a_gpt_of_our_examples():
    import gpt

    model = build(gpt.GPT, 3, WIDTH, 2, 8, 0.1)
    recording = check(model, ids(), of_logits)
    assert [u.name for u in recording.units] == ["token", "blocks.0", "blocks.1", "blocks.2", "norm", "head"]
    assert all([v.shape for v in recording.crossing(k)] == [(2, 8, WIDTH)] for k in range(1, 6))
    check(model, ids(), of_logits, recording, [(0, 1, 2, 3), (0, 2, 4), (0, 3, 5)], split=True)


def test_a_tied_head_and_parameters_used_between_the_layers():
    recording = check(build(TiedGPT), ids(), of_logits)
    assert recording.ties == {"token.weight": (0, 4)}
    assert recording.units[0].parameters == ("scale", "token.weight", "position.weight")
    check(build(TiedGPT), ids(), of_logits, recording, [(0, 2, 3)])


def test_a_sequential_model():
    layers = [nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 8), nn.Tanh()]
    recording = check(build(lambda: nn.Sequential(*layers)), torch.randn(4, 6), of_anything)
    assert [u.name for u in recording.units] == ["0", "2", "4"]


def test_additions_in_the_parent():
    model = build(Residual)
    recording = check(model, ids(), of_logits)
    check(model, ids(), of_logits, recording, [(0, 1, 2, 3)], split=True)


@pytest.mark.parametrize("layout", ["rows", "channels_last"])
def test_a_convolutional_network_with_skips_and_batch_norm(layout):
    model, image = build(ConvNet), torch.randn(4, 3, 8, 8)
    if layout == "channels_last":
        model, image = model.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
    recording = check(model, image, of_anything)
    assert max(len(recording.crossing(k)) for k in range(len(recording.units))) == 3  # the skip, and a sum to come
    assert "stem.1.running_mean" in recording.units[1].buffers
    check(model, image, of_anything, recording, [(0, 2, 4, 6), (0, 1, 3, 5)], split=True)


def test_a_block_that_is_called_several_times():
    recording = check(build(Shared), ids(), of_logits)
    assert [u.name for u in recording.units] == ["embed", "block", "block#1", "block#2", "head"]
    assert recording.ties == {"block.weight": (1, 2, 3), "block.bias": (1, 2, 3)}
    check(build(Shared), ids(), of_logits, recording, [(0, 2, 3), (0, 1, 2, 3)])
    check(build(Shared), ids(), of_logits, recording, [(0, 1), (0, 2, 4)], split=True)


def test_code_that_writes_into_tensors():
    check(build(Writes), ids(), of_anything)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_noise_custom_functions_transposes_and_checkpoints(checkpointed):
    model = build(Odd, checkpointed)
    recording = check(model, ids(), of_anything)
    assert recording.checkpointed == checkpointed
    check(model, ids(), of_anything, recording, [(0, 1, 2, 3)])


def test_llama():
    model = transformer("LlamaForCausalLM")
    recording = check(model, MASK, of_logits)
    check(model, MASK, of_logits, recording, [(0, 1, 2, 3)], split=True)
    assert [len(recording.crossing(k)) for k in range(1, 5)] == [1, 1, 1, 1]  # masks and rotations are made anew


def test_llama_with_gradient_checkpointing():
    model = transformer("LlamaForCausalLM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable()
    check(model, MASK, of_logits, layouts=[(0, 1), (0, 2), (0, 1, 2, 3)])


def test_gpt2():
    recording = check(transformer("GPT2LMHeadModel"), MASK, of_logits)
    assert recording.ties == {"transformer.wte.weight": (0, 5)}


def test_bert():
    model = transformer("BertForMaskedLM")
    recording = check(model, MASK, of_logits)
    check(model, MASK, of_logits, recording, [(0, 1, 2, 3)], split=True)


@pytest.mark.parametrize("tied", [True, False])
def test_t5(tied):
    model = transformer("T5ForConditionalGeneration", tie_word_embeddings=tied)
    inputs = {**MASK, "decoder_input_ids": ids(4)}
    recording = check(model, inputs, of_logits)
    names = [unit.name for unit in recording.units]
    # the encoder's output is for all blocks of the decoder, and the first blocks make the position biases of the others
    assert len(recording.crossing(names.index("decoder.block.1"))) == 4
    check(model, inputs, of_logits, recording, [(0, 2, 5), (0, 1, 3, 6), (0, 4, 5, 6)])
    check(model, inputs, of_logits, recording, [(0, 1), (0, 5), (0, 3, 6)], split=True)


def test_albert_mixtral_and_frozen_parameters():
    check(transformer("AlbertForMaskedLM"), MASK, of_logits)
    model = transformer("MixtralForCausalLM", num_local_experts=2, num_experts_per_tok=1)
    check(model, MASK, of_logits, layouts=[(0, 2)])
    model = transformer("LlamaForCausalLM")
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[0].requires_grad_(False)
    recording = check(model, MASK, of_logits)
    assert [recording.crossing(k)[0].requires_grad for k in range(1, 5)] == [False, False, True, True]


def test_under_autocast():
    model = build(TiedGPT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        recording = recorded(model, ids())
        check(model, ids(), of_logits, recording, [(0, 2)])
    assert recording.units and WORDS


def test_one_process_holds_several_stages_and_the_model_stays_as_it_was():
    model = build(Residual)
    types = [type(module) for module in model.modules()]
    recording = recorded(model, ids())
    stages = [StageModule(model, recording, k, k + 1) for k in range(len(recording.units))]
    torch.manual_seed(1)
    expected = model(ids())
    torch.manual_seed(1)
    sent = ()
    for stage in stages:
        sent = stage(ids(), sent)
    assert torch.equal(sent["logits"], expected["logits"]) and torch.equal(sent["extra"][0], expected["extra"][0])
    assert [type(module) for module in model.modules()] == types
    assert {n for stage in stages for n, _ in stage.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_evaluation():
    model = build(TiedGPT).eval()
    recording = recorded(build(TiedGPT), ids())
    with torch.no_grad():
        sent = StageModule(model, recording, 0, 2)(ids())
        assert not sent[0].requires_grad
        assert torch.equal(StageModule(model, recording, 2, 5)(ids(), sent), model(ids()))
