"""Trees of names."""

from __future__ import annotations

from tinylora_tools.bases.architectures.layout import Layout, filled, generalised

TEXT = "model(embed_tokens:E layers.*(self_attn(q_proj k_proj) mlp.*.fc) h:e(inner:C)) lm_head"


def test_leaves_come_depth_first_with_their_letters() -> None:
    assert Layout(TEXT).letters == {
        "model.embed_tokens": "E",
        "model.layers.*.self_attn.q_proj": "L",
        "model.layers.*.self_attn.k_proj": "L",
        "model.layers.*.mlp.*.fc": "L",
        "model.h": "e",
        "model.h.inner": "C",
        "lm_head": "L",
    }
    assert Layout("").letters == {}
    assert "lm_head" in Layout(TEXT)
    assert "model" not in Layout(TEXT)


def test_modules_sort_by_place_and_number() -> None:
    wanted = [
        "model.embed_tokens",
        "model.layers.2.self_attn.q_proj",
        "model.layers.2.self_attn.k_proj",
        "model.layers.2.mlp.0.fc",
        "model.layers.2.mlp.11.fc",
        "model.layers.10.self_attn.q_proj",
        "model.h.inner",
        "lm_head",
    ]
    assert sorted(sorted(wanted), key=Layout(TEXT).sort_key) == wanted


def test_numbers_are_taken_out_and_put_back() -> None:
    assert generalised("h.0.mlp.fc1.12") == "h.*.mlp.fc1.*"
    assert generalised("0") == "*"
    assert filled("a.*.b.*", "h.3.mlp.fc1.12") == "a.3.b.12"
