"""A trainer of a tiny model on four words."""

import torch
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainingArguments

from deed import DeedConfig, get_deed_model
from deed.models import small_g2p
from deed.tasks import g2p


def pairs(n=24):
    tokenizer = small_g2p.build_tokenizer()
    rows = [(w, [p]) for w, p in [("cat", "K AE T"), ("dogs", "D AA G Z"), ("a", "AH"), ("thing", "TH IH NG")]]
    return tokenizer, g2p.encode_pairs(rows * (n // 4), tokenizer)


def trainer(
    cls, tmp_path, accumulation=1, batch_size=8, early_exit=True, dropout=0.0, rows=None, more=None, **options
):
    """`options` are training arguments, `more` the trainer's own, `rows` other data."""
    torch.manual_seed(0)
    tokenizer, data = pairs()
    data = data if rows is None else rows
    model = small_g2p.build_model(tokenizer, n_layers=2, d_model=32, d_ff=32, dropout=dropout)
    if early_exit:
        model = get_deed_model(model, DeedConfig())
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{"max_steps": 1, "learning_rate": 1e-3, "save_strategy": "no", "logging_steps": 1, **options},
    )
    return cls(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        **(more or {}),
    )
