"""Names and shapes of the weights in both layouts, and which rows of one are which rows of the other.

*Official*: what the authors publish, diffusers' names; what else differs between systems is said by `Published`.
*Native*: HunyuanVideo's own names, as ComfyUI and its LoRA tools know them. There q, k and v are rows of one matrix.

One table says everything; conversion both ways, shape checks and LoRA names are read from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from math import prod
from typing import NamedTuple

from ..config import ConnectorConfig, MMDiTConfig
from .published import TRANSFORMER, ConnectorNames, Published

Shape = tuple[int, ...]

TOKENS = "metaquery"
"""Name of the learnable tokens in a tokens file."""
MARKED_TOKENS = "tokens"
"""Their name where the file has the markers around them too, which are called BEGIN and END."""
BEGIN, END = "begin", "end"
VECTORS = (BEGIN, END)
"""Names of a tokens file that are single rows."""
HEAD_ROWS = "lm_head"
"""The rows of the text encoder's output layer that belong to markers and tokens: kept for the way back, never used."""


class Layer(NamedTuple):
    """One native layer and the official layers stacked in its rows, in order, each with its number of rows.

    `columns` None means a vector (a norm's weight), `bias` whether there is a bias beside the weight. `swap`: the two
    halves of the official layer change places (scale, shift there; shift, scale here).
    """

    native: str
    official: tuple[tuple[str, str], ...]
    columns: str | None
    bias: bool = True
    swap: bool = False


class Piece(NamedTuple):
    """`rows` rows that start at `native_start` of one native tensor and at `official_start` of an official one."""

    native: str
    native_start: int
    official: str
    official_start: int
    rows: int
    columns: Shape


def _same(native: str, official: str, rows: str, columns: str | None, bias: bool = True) -> Layer:
    return Layer(native, ((official, rows),), columns, bias)


def _embedder(native: str, official: str, columns: str) -> tuple[Layer, ...]:
    return (
        _same(f"{native}.in_layer", f"{official}.linear_1", "hidden", columns),
        _same(f"{native}.out_layer", f"{official}.linear_2", "hidden", "hidden"),
    )


def _mlp(native: str, official: str) -> tuple[Layer, ...]:
    return (
        _same(f"{native}.0", f"{official}.net.0.proj", "mlp", "hidden"),
        _same(f"{native}.2", f"{official}.net.2", "hidden", "mlp"),
    )


def _norms(native: str, query: str, key: str) -> tuple[Layer, ...]:
    return (
        _same(f"{native}.query_norm", query, "head", None, bias=False),
        _same(f"{native}.key_norm", key, "head", None, bias=False),
    )


def _qkv(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, "hidden") for name in names)


_ENDS = (
    _same("img_in.proj", "x_embedder.proj", "hidden", "patch_in"),
    *_embedder("time_in", "time_text_embed.timestep_embedder", "frequencies"),
    _same("txt_in.input_embedder", "context_embedder.proj_in", "hidden", "text"),
    *_embedder("txt_in.t_embedder", "context_embedder.time_text_embed.timestep_embedder", "frequencies"),
    *_embedder("txt_in.c_embedder", "context_embedder.time_text_embed.text_embedder", "text"),
    _same("final_layer.linear", "proj_out", "patch_out", "hidden"),
    Layer("final_layer.adaLN_modulation.1", (("norm_out.linear", "hidden*2"),), "hidden", swap=True),
)
_GUIDANCE = _embedder("guidance_in", "time_text_embed.guidance_embedder", "frequencies")
_REFINER_NATIVE = "txt_in.individual_token_refiner.blocks.{}"
_REFINER_OFFICIAL = "context_embedder.token_refiner.refiner_blocks.{}"
_REFINER = (
    _same("norm1", "norm1", "hidden", None),
    Layer("self_attn.qkv", _qkv(("attn.to_q", "attn.to_k", "attn.to_v")), "hidden"),
    _same("self_attn.proj", "attn.to_out.0", "hidden", "hidden"),
    _same("norm2", "norm2", "hidden", None),
    *_mlp("mlp", "ff"),
    _same("adaLN_modulation.1", "norm_out.linear", "hidden*2", "hidden"),
)
_DOUBLE = (
    _same("img_mod.lin", "norm1.linear", "hidden*6", "hidden"),
    _same("txt_mod.lin", "norm1_context.linear", "hidden*6", "hidden"),
    Layer("img_attn.qkv", _qkv(("attn.to_q", "attn.to_k", "attn.to_v")), "hidden"),
    Layer("txt_attn.qkv", _qkv(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")), "hidden"),
    *_norms("img_attn.norm", "attn.norm_q", "attn.norm_k"),
    *_norms("txt_attn.norm", "attn.norm_added_q", "attn.norm_added_k"),
    _same("img_attn.proj", "attn.to_out.0", "hidden", "hidden"),
    _same("txt_attn.proj", "attn.to_add_out", "hidden", "hidden"),
    *_mlp("img_mlp", "ff"),
    *_mlp("txt_mlp", "ff_context"),
)
_SINGLE = (
    _same("modulation.lin", "norm.linear", "hidden*3", "hidden"),
    Layer("linear1", (*_qkv(("attn.to_q", "attn.to_k", "attn.to_v")), ("proj_mlp", "mlp")), "hidden"),
    _same("linear2", "proj_out", "hidden", "hidden+mlp"),
    *_norms("norm", "attn.norm_q", "attn.norm_k"),
)
_UNUSED = "time_text_embed.text_embedder"
_NAMES = ConnectorNames()
NORM = "norm_qwen"
"""The norm of a connector in the native layout."""


def _sizes(config: MMDiTConfig) -> dict[str, Shape]:
    hidden, mlp = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    return {
        "hidden": (hidden,),
        "hidden*2": (2 * hidden,),
        "hidden*3": (3 * hidden,),
        "hidden*6": (6 * hidden,),
        "mlp": (mlp,),
        "hidden+mlp": (hidden + mlp,),
        "head": (config.head_dim,),
        "text": (config.text_dim,),
        "frequencies": (256,),
        "patch_in": (config.in_channels, *config.patch_size),
        "patch_out": (prod(config.patch_size) * config.out_channels,),
    }


def _prefixed(layers: Iterable[Layer], native: str, official: str) -> Iterator[Layer]:
    for layer in layers:
        sources = tuple((f"{official}.{name}", rows) for name, rows in layer.official)
        yield layer._replace(native=f"{native}.{layer.native}", official=sources)


def transformer_layers(config: MMDiTConfig) -> Iterator[Layer]:
    """Every layer of the MMDiT itself; official names without `transformer.`."""
    yield from _ENDS
    if config.guidance_embed:
        yield from _GUIDANCE
    for count, layers, native, official in (
        (config.depth_refiner, _REFINER, _REFINER_NATIVE, _REFINER_OFFICIAL),
        (config.depth, _DOUBLE, "double_blocks.{}", "transformer_blocks.{}"),
        (config.depth_single, _SINGLE, "single_blocks.{}", "single_transformer_blocks.{}"),
    ):
        for index in range(count):
            yield from _prefixed(layers, native.format(index), official.format(index))


def layer_pieces(layer: Layer, config: MMDiTConfig) -> Iterator[Piece]:
    """The pieces of a layer's weight, then of its bias; official names with `transformer.`."""
    sizes = _sizes(config)
    columns = () if layer.columns is None else sizes[layer.columns]
    for parameter, trailing in (("weight", columns), *((("bias", ()),) if layer.bias else ())):
        native, start = f"{layer.native}.{parameter}", 0
        for name, rows_name in layer.official:
            official, (rows,) = f"{TRANSFORMER}{name}.{parameter}", sizes[rows_name]
            if layer.swap:
                half = rows // 2
                yield Piece(native, start, official, half, half, trailing)
                yield Piece(native, start + half, official, 0, half, trailing)
            else:
                yield Piece(native, start, official, 0, rows, trailing)
            start += rows


def connector_shapes(connector: ConnectorConfig, norm: str = NORM) -> dict[str, Shape]:
    """Parameters of one connector, whose norm is called `norm`."""
    width, inner = connector.out_features, connector.inner_features
    return {
        f"{connector.name}.{norm}.weight": (connector.in_features,),
        f"{connector.name}.mlp.0.weight": (inner, connector.in_features),
        f"{connector.name}.mlp.0.bias": (inner,),
        f"{connector.name}.mlp.2.weight": (width, inner),
        f"{connector.name}.mlp.2.bias": (width,),
    }


def model_pieces(config: MMDiTConfig, names: ConnectorNames = _NAMES) -> list[Piece]:
    """Everything in a native model file: the MMDiT and its connectors, which are officially called as `names` says."""
    pieces = [piece for layer in transformer_layers(config) for piece in layer_pieces(layer, config)]
    for connector in config.connectors:
        official = connector_shapes(connector, names.norm)
        for (name, (rows, *columns)), other in zip(connector_shapes(connector).items(), official, strict=True):
            pieces.append(Piece(name, 0, names.prefix + other, 0, rows, tuple(columns)))
    return pieces


def token_pieces(published: Published, count: int, width: int) -> list[Piece]:
    """Everything in the tokens file of a variant with `count` tokens."""
    if count == 0:
        return []
    if published.tokens is not None:
        return [Piece(TOKENS, 0, published.tokens, 0, count, (width,))]
    embedding, start = published.vlm + published.embedding, published.vocabulary
    return [
        Piece(BEGIN, 0, embedding, start, 1, (width,)),
        Piece(END, 0, embedding, start + 1, 1, (width,)),
        Piece(MARKED_TOKENS, 0, embedding, start + 2, count, (width,)),
        Piece(HEAD_ROWS, 0, published.vlm + published.head, start, count + 2, (width,)),
    ]


def encoder_pieces(published: Published, shapes: Mapping[str, Shape]) -> list[Piece]:
    """Everything in the text encoder's file: `shapes` under its own names, without the rows of markers and tokens."""
    grown = (published.vlm + published.embedding, published.vlm + published.head)
    return [
        Piece(
            name.removeprefix(published.vlm), 0, name, 0, published.vocabulary if name in grown else shape[0], shape[1:]
        )
        for name, shape in shapes.items()
    ]


def by_native(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Native name -> the pieces that make it up, top row first."""
    ordered = sorted(pieces, key=lambda piece: (piece.native, piece.native_start))
    return {name: list(group) for name, group in groupby(ordered, key=lambda piece: piece.native)}


def by_official(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Official name -> the pieces that make it up, top row first."""
    ordered = sorted(pieces, key=lambda piece: (piece.official, piece.official_start))
    return {name: list(group) for name, group in groupby(ordered, key=lambda piece: piece.official)}


def stacked_shape(pieces: Iterable[Piece]) -> Shape:
    """Shape of the tensor that `pieces` make up."""
    pieces = list(pieces)
    return (sum(piece.rows for piece in pieces), *pieces[0].columns)


def native_shapes(config: MMDiTConfig) -> dict[str, Shape]:
    """Names and shapes of a native model file."""
    return {name: stacked_shape(group) for name, group in by_native(model_pieces(config)).items()}


def unused_shapes(config: MMDiTConfig, pooled: int | None) -> dict[str, Shape]:
    """Official parameters that no computation reads (an embedder of a pooled text of width `pooled`, None for none)."""
    if pooled is None:
        return {}
    hidden = config.hidden_size
    name = f"{TRANSFORMER}{_UNUSED}"
    return {
        f"{name}.linear_1.weight": (hidden, pooled),
        f"{name}.linear_1.bias": (hidden,),
        f"{name}.linear_2.weight": (hidden, hidden),
        f"{name}.linear_2.bias": (hidden,),
    }


def official_shapes(config: MMDiTConfig, published: Published, tokens: Shape, pooled: int | None) -> dict[str, Shape]:
    """Names and shapes of an official checkpoint without its VLM.

    `tokens` is the shape (count, width) of the learnable tokens, `pooled` the width of the unused pooled text.
    """
    pieces = model_pieces(config, published.connectors)
    shapes = {name: stacked_shape(group) for name, group in by_official(pieces).items()}
    own = {} if published.tokens is None else {published.tokens: tokens}
    return {**shapes, **unused_shapes(config, pooled), **own}
