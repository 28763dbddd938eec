"""Small models, batches and Trainers of transformers, and the union batch's gradient worked out without them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

logging.set_verbosity_error()
gc.freeze()  # every `train()` collects garbage: not among the modules of three frameworks

VOCABULARY, LENGTH, WINDOW = 40, 10, 4
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = SMALL | {"intermediate_size": 24, "max_position_embeddings": 16}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def classifier(**config: Any) -> nn.Module:
    """BERT with a head for three classes."""
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**BERT, num_labels=3, **config))


def masked(**config: Any) -> nn.Module:
    """BERT with its masked language model head, which does not shift."""
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**BERT, **config))


def llama() -> nn.Module:
    """A decoder whose loss shifts, and whose Trainer knows it."""
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, intermediate_size=24, max_position_embeddings=16)
    return LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    """A decoder whose loss shifts, and whose Trainer does not know it."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **ends))


def t5(**config: Any) -> nn.Module:
    """An encoder-decoder, whose first label is fed to the decoder too."""
    sizes = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, **config))


def bart() -> nn.Module:
    """An encoder-decoder that takes its decoder's inputs from the encoder's where there are no labels."""
    half = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in half.items()}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=VOCABULARY, d_model=16, max_position_embeddings=16, dropout=0.0, **sizes)
    return BartForConditionalGeneration(config)


def sentences(num: int = 16, *, first: bool = True) -> list[dict[str, Tensor]]:
    """Rows whose labels are the tokens, up to a length of their own; the first label is kept or ignored."""
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Tensor]] = []
    for i in range(num):
        tokens = torch.randint(1, VOCABULARY, (LENGTH,), generator=generator)
        labels = tokens.clone()
        labels[2 + (3 * i) % (LENGTH - 1) :] = -100
        if not first:
            labels[0] = -100
        rows.append({"input_ids": tokens, "labels": labels})
    return rows


def classes(num: int = 16) -> list[dict[str, Tensor]]:
    """Rows with a class."""
    return [{"input_ids": row["input_ids"], "labels": row["input_ids"][0] % 3} for row in sentences(num)]


def trainer(
    model: nn.Module, rows: Any, folder: Path, loss: Any = None, kind: type[Trainer] = Trainer, **arguments: Any
) -> Trainer:
    """A Trainer on one CPU: windows of four micro-batches of two rows, no clipping, no disk."""
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": WINDOW,
        "max_grad_norm": 0.0,
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "log_level": "error",
        "dataloader_pin_memory": False,
    }
    return kind(model, TrainingArguments(**(settings | arguments)), train_dataset=rows, compute_loss_func=loss)


class Gradients(TrainerCallback):
    """Keeps the gradient of every step of a real `train()`, as one vector."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.seen.append(flat([p.grad for p in keywords["model"].parameters()]))


def trained(own: Trainer) -> list[Tensor]:
    """The gradients of a real training run in the dataset's order."""
    gradients = Gradients()
    own.add_callback(gradients)
    own.train()
    return gradients.seen


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([x.detach().flatten() for x in tensors])


def union(model: nn.Module, rows: list[dict[str, Tensor]], *, shift: bool, per: str = "token") -> Tensor:
    """The gradient of the mean over all targets of the rows as one batch, from logits and torch alone."""
    labels = torch.stack([row["labels"] for row in rows])
    logits = model(input_ids=torch.stack([row["input_ids"] for row in rows])).logits
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none")
    losses, kept = losses.view(labels.shape), labels != -100
    mean = losses.sum() / kept.sum() if per == "token" else (losses.sum(1) / kept.sum(1)).mean()
    return flat(list(torch.autograd.grad(mean, list(model.parameters()))))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def build(name: str) -> Callable[[], nn.Module]:
    return {"gpt2": gpt2, "llama": llama, "masked": lambda: masked(**NO_DROPOUT)}[name]
