"""OFA by brute force, from method.md: one row, no padding, no masks but the causal one, one head at a time, position by
position. It shares the weights with the model and no code but torch's linear algebra and the image stem."""

import math

import torch
from test_ofa_positions import image_bucket, token_bucket
from torch.nn import functional as F


def linear(x, layer):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def norm(x, layer):
    if layer is None:
        return x
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return x * layer.weight + layer.bias


def heads(x, n):
    return x.reshape(len(x), n, -1).transpose(0, 1)


def attention(part, config, queries, keys, bias):
    """Rows of `queries` and `keys`, `[n, d]`; bias `[heads, q, k]`."""
    n = part.num_heads
    q, k, v = (heads(linear(x, p), n) for x, p in ((queries, part.q_proj), (keys, part.k_proj), (keys, part.v_proj)))
    out = []
    for head in range(n):
        scores = q[head] @ k[head].T / math.sqrt(config.attn_scale_factor * q.shape[-1]) + bias[head]
        attended = scores.softmax(-1) @ v[head]
        out.append(attended * part.c_attn[head] if config.scale_heads else attended)
    return linear(torch.cat(out, -1), part.out_proj)


def feed(x, layer):
    inner = norm(F.gelu(linear(norm(x, layer.final_layer_norm), layer.fc1)), layer.ffn_layer_norm)
    return (x if layer.w_resid is None else layer.w_resid * x) + linear(inner, layer.fc2)


def absolute(q, k, n, config):
    return heads(q, n) @ heads(k, n).transpose(1, 2) / math.sqrt(config.attn_scale_factor * q.shape[-1] / n)


def relative(table, ids, bucket):
    return table.weight[torch.tensor([[bucket(i, j) for j in ids] for i in ids])].permute(2, 0, 1)


def tokens(config):
    return lambda i, j: token_bucket(i, j, config.token_bucket_size)


def image_ids(height, width, config):
    return [r * config.image_bucket_size + c + 1 for r in range(height) for c in range(width)]


def image_positions(encoder, config, height, width):
    side = config.orig_patch_image_size // 16
    table = encoder.embed_image_positions.weight
    if config.interpolate_position and height * width > side * side:
        known = table[image_ids(side, side, config)].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grown = F.interpolate(known, size=(height, width), mode="bilinear", align_corners=False)
        return grown.permute(0, 2, 3, 1).reshape(height * width, -1)
    return table[image_ids(height, width, config)]


def encode(model, ids, image):
    """`[text]` ids and a picture `[3, h, w]` or None to states and positions, `[patches + text, d]`."""
    e, config = model.encoder, model.config
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    places = e.embed_positions.weight[: len(ids)]
    x = e.embed_tokens.weight[ids] * scale
    x = x + (places if config.entangle_position_embedding else 0)
    x = norm(x + (e.type_embedding.weight[0] if config.add_type_embedding else 0), e.layernorm_embedding)
    positions, patches, grid = norm(places, e.pos_ln), 0, []
    if image is not None:
        features = e.embed_images(image[None])[0]
        height, width = features.shape[1:]
        patches, grid = height * width, image_ids(height, width, config)
        y = linear(features.flatten(1).T, e.image_proj) * scale
        places = image_positions(e, config, height, width)
        y = y + (places if config.entangle_position_embedding else 0)
        y = norm(y + (e.type_embedding.weight[1] if config.add_type_embedding else 0), e.patch_layernorm_embedding)
        x, positions = torch.cat([y, x]), torch.cat([norm(places, e.image_pos_ln), positions])
    n = config.encoder_attention_heads
    shared = absolute(linear(positions, e.pos_q_linear), linear(positions, e.pos_k_linear), n, config)
    for layer, text, picture in zip(e.layers, e.token_rel_pos_table_list, e.image_rel_pos_table_list, strict=True):
        bias = shared.clone()
        bias[:, patches:, patches:] += relative(text, range(len(ids)), tokens(config))
        if patches:
            bias[:, :patches, :patches] += relative(
                picture, grid, lambda a, b: image_bucket(a, b, config.image_bucket_size)
            )
        h = norm(x, layer.self_attn_layer_norm)
        x = x + norm(attention(layer.self_attn, config, h, h, bias), layer.self_attn_mid_layer_norm)
        x = feed(x, layer)
    return norm(x, e.layer_norm), positions


def decode(model, states, source, ids, code=False):
    """Logits `[length, vocab]` of `[length]` ids after an encoded row."""
    d, config = model.decoder, model.config
    n, length = config.decoder_attention_heads, len(ids)
    window = config.code_image_size // 8
    codes = [0, *image_ids(window, window, config)][:length]
    places = d.embed_image_positions.weight[codes] if code else d.embed_positions.weight[:length]
    x = d.embed_tokens.weight[ids] * (math.sqrt(config.d_model) if config.scale_embedding else 1.0)
    x = x + (0 if config.disable_entangle else places)
    if config.layernorm_embedding:
        x = norm(x, d.code_layernorm_embedding if code and config.code_layernorm_embedding else d.layernorm_embedding)
    positions = norm(places, d.image_pos_ln if code else d.pos_ln)
    own = absolute(linear(positions, d.self_pos_q_linear), linear(positions, d.self_pos_k_linear), n, config)
    cross = absolute(linear(positions, d.cross_pos_q_linear), linear(source, d.cross_pos_k_linear), n, config)
    causal = torch.full((length, length), -math.inf).triu(1)
    for i, layer in enumerate(d.layers):
        if code:
            table = d.image_rel_pos_table_list[i]
            bias = own + relative(table, codes, lambda a, b: image_bucket(a, b, config.image_bucket_size))
        else:
            bias = own + relative(d.token_rel_pos_table_list[i], range(length), tokens(config))
        h = norm(x, layer.self_attn_layer_norm)
        x = x + norm(attention(layer.self_attn, config, h, h, bias + causal), layer.self_attn_mid_layer_norm)
        h = norm(x, layer.cross_attn_layer_norm)
        x = x + norm(attention(layer.cross_attn, config, h, states, cross), layer.cross_attn_mid_layer_norm)
        x = feed(x, layer)
    return norm(x, d.layer_norm) @ d.output_projection.weight.T
