"""A program as C: ``model.c``, ``model.h``, ``model_weights.h``; equal programs give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from bitfront.graph.ir import Graph
from bitfront.quant.plan import Plan
from bitfront.runtimes import c_text
from bitfront.runtimes.c_lower import SCRATCH_BYTES, layout, lower, scratch
from bitfront.runtimes.c_memory import Layout
from bitfront.runtimes.c_program import TYPES, Call, Held, Place, Program, Step

__all__ = ["OPTIONAL", "Written", "kernels", "write"]

OPTIONAL = ("bf_nms.c", "bf_nms.h")
"""Files that only detectors have."""

STRUCT_BYTES = {
    "bf_layer": 60, "bf_binary_layer": 44, "bf_move_layer": 32, "bf_gather_layer": 40, "bf_pool_layer": 40,
    "bf_resize_layer": 40, "bf_table_layer": 16, "bf_along_layer": 32,
}  # fmt: skip
"""Bytes of a layer's constants where pointers have 32 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A network as C."""

    name: str
    model_c: str
    model_h: str
    weights_h: str
    program: Program
    memory: Layout
    offsets: Mapping[str, int]
    """Of the input and every activation in the arena."""

    @property
    def flash_bytes(self) -> int:
        """Bytes of constants: weights, biases, tables, and what tells kernels their sizes. Not the program."""
        arrays = sum(a.values.nbytes for a in self.program.arrays.values())
        return arrays + sum(STRUCT_BYTES.get(c.kind, 0) for s in self.program.steps for c in s.calls)

    @property
    def traced(self) -> tuple[str, ...]:
        """Tensors in the order in which a traced run shows them."""
        return tuple(step.node.output for step in self.program.steps)


def kernels() -> dict[str, str]:
    """Return the kernels' files: name -> text; not those that only detectors have."""
    folder = resources.files("bitfront.runtimes") / "c_kernels"
    names = sorted(f.name for f in folder.iterdir() if f.name.startswith("bf_") and f.name not in OPTIONAL)
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def write(
    graph: Graph, plan: Plan, name: str = "model", scratch_bytes: int = SCRATCH_BYTES, streamed: bool = False
) -> Written:
    """Return the C of a prepared graph under a plan of Qmn formats; ``name`` begins all its global names.

    ``streamed``: the image comes row by row.

    Raises UsageError for other formats and unfit names, OperatorError for operators without a kernel.
    """
    c_text.check_name(name)
    program = lower(graph, plan, scratch_bytes, streamed)
    memory, offsets = layout(graph, program)
    return Written(
        name,
        _model_c(program, memory, offsets, name),
        _model_h(program, memory, offsets, name),
        _weights_h(program, name),
        program,
        memory,
        offsets,
    )


# --- weights.h -------------------------------------------------------------------------------------------------------
def _weights_h(program: Program, name: str) -> str:
    parts = [
        "/* Constants in flash: weights (w) packed at their bits, least significant bit first, every output channel\n"
        " * from a byte on; biases (b); shifts (s); tables (t, e); places of resizing (i); other constants (c).\n"
        " * Included by the model's .c alone. */\n"
    ]
    parts += [c_text.array(f"{name}_{key}", a.values, a.what) for key, a in program.arrays.items()]
    return "\n".join(parts)


# --- model.h ---------------------------------------------------------------------------------------------------------
def _model_h(program: Program, memory: Layout, offsets: Mapping[str, int], name: str) -> str:
    upper = name.upper()
    x, y = program.held[program.input], program.held[program.output]
    lines = [
        "/* A network in fixed point. Written by bitfront; rounding: " + program.rounding.replace("_", " ") + ".",
        " *",
        f" *     static uint8_t arena[{upper}_ARENA_BYTES] __attribute__((aligned(8)));",
        f" *     {_usage(program, name)}; read {name}_output(arena);",
        " *",
        f" * A code q stands for q / 2^{upper}_INPUT_FRAC_BITS (or OUTPUT). Maps lie row by row, channels innermost.",
        " * The arena is used again and again: write the input before every run, read the output before the next. */",
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        "",
        "#include <stdint.h>",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"#define {upper}_ARENA_BYTES {max(memory.n_bytes, 4)} /* aligned to 8 */",
        *_tensor_macros(f"{upper}_INPUT", x),
        *_tensor_macros(f"{upper}_OUTPUT", y),
        "",
        f"typedef {c_text.C_TYPES[TYPES[x.type]]} {name}_input_t;",
        f"typedef {c_text.C_TYPES[TYPES[y.type]]} {name}_output_t;",
        "",
        *_input_function(program, offsets, name),
        f"static inline const {name}_output_t *{name}_output(const void *arena) {{",
        f"    return (const {name}_output_t *)(const void *)((const uint8_t *)arena + {offsets[program.output]});",
        "}",
        "",
        f"{_signature(program, name)};",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _usage(program: Program, name: str) -> str:
    if program.window_bytes:
        return f"{name}_run(arena, fetch, context), where fetch writes the codes of a row, each once, in order"
    return f"fill {name}_input(arena); {name}_run(arena)"


def _input_function(program: Program, offsets: Mapping[str, int], name: str) -> list[str]:
    if program.window_bytes:
        return []
    return [
        f"static inline {name}_input_t *{name}_input(void *arena) {{",
        f"    return ({name}_input_t *)(void *)((uint8_t *)arena + {offsets[program.input]});",
        "}",
        "",
    ]


def _tensor_macros(prefix: str, held: Held) -> list[str]:
    names = {3: ("HEIGHT", "WIDTH", "CHANNELS"), 2: ("ROWS", "COLUMNS"), 1: ("SIZE",)}.get(len(held.sizes), ())
    lines = [f"#define {prefix}_{axis} {n}" for axis, n in zip(names, held.sizes, strict=False)]
    lines.append(f"#define {prefix}_ELEMENTS {held.n}")
    if held.form is not None:
        lines.append(f"#define {prefix}_FRAC_BITS ({held.form.frac_bits})")
    return lines


# --- model.c ---------------------------------------------------------------------------------------------------------
def _model_c(program: Program, memory: Layout, offsets: Mapping[str, int], name: str) -> str:
    parts = [
        f'#include "{name}.h"\n\n#include "bf_kernels.h"\n#include "{name}_weights.h"\n\n'
        "/* With BF_TRACE defined, bf_trace is called with the codes of every layer. */\n"
        "#ifdef BF_TRACE\nvoid bf_trace(int32_t layer, const void *codes, int32_t bytes);\n"
        "#else\n#define bf_trace(layer, codes, bytes) ((void)0)\n#endif\n"
    ]
    body = []
    for i, step in enumerate(program.steps):
        definitions, calls = _step(program, step, i, memory=memory, offsets=offsets, name=name)
        parts += definitions
        body += calls
    parts.append(f"{_signature(program, name)} {{\n    uint8_t *const a = (uint8_t *)arena;\n")
    return "\n".join(parts) + "\n".join(body) + "\n}\n"


def _signature(program: Program, name: str) -> str:
    if not program.window_bytes:
        return f"void {name}_run(void *arena)"
    return f"void {name}_run(void *arena, void (*fetch)(void *context, int32_t row, void *codes), void *context)"


def _step(
    program: Program, step: Step, i: int, *, memory: Layout, offsets: Mapping[str, int], name: str
) -> tuple[list[str], list[str]]:
    """Return the structs and the calls of one node."""
    at = {**offsets, scratch(i): memory.offsets.get(scratch(i), 0)}
    node, y = step.node, program.held[step.node.output]
    definitions = []
    calls = [f"\n    /* {i}: {c_text.comment(f'{node.op} {node.name} -> {_described(y)}')} */"]
    for k, call in enumerate(step.calls):
        struct = f"{name}_layer_{i}" + (f"_{k}" if len(step.calls) > 1 else "")
        places = [_place(p, at, i, name) for p in call.places]
        if call.kind:
            fields = {key: _field(value, program, name) for key, value in call.fields.items()}
            definitions.append(c_text.struct(call.kind, struct, fields))
            calls.append(_call(call, [f"&{struct}", *places]))
        else:
            calls.append(_call(call, [*places, *(str(v) for v in call.fields.values())]))
    calls.append(f"    bf_trace({i}, a + {offsets[node.output]}, {y.n_bytes});")
    return definitions, calls


def _field(value: int | str, program: Program, name: str) -> int | str:
    return f"{name}_{value}" if value in program.arrays else value


def _call(call: Call, arguments: list[str]) -> str:
    return f"    {call.function}({', '.join(arguments)});"


def _place(place: Place, at: Mapping[str, int], i: int, name: str) -> str:
    if place.kind == "text":
        return place.name
    if place.kind == "array":
        return f"{name}_{place.name}"
    return f"a + {at[scratch(i) if place.kind == 'scratch' else place.name] + place.offset}"


def _described(held: Held) -> str:
    shape = "x".join(str(n) for n in held.sizes) or "1"
    if held.form is None:
        return f"{shape} class index"
    form = held.form
    return f"{shape} {'' if form.signed else 'u'}{form.bits} bits, step 2^{-form.frac_bits}"
