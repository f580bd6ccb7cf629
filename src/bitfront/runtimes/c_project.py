"""The files around the C of a network: an example, build files of CMake, Arduino and PlatformIO, how to feed images."""

from __future__ import annotations

import json

import numpy as np

import bitfront
from bitfront.contracts import InputContract
from bitfront.runtimes import c_text
from bitfront.runtimes.c_source import Written

__all__ = ["files"]


def files(written: Written, contract: InputContract, expected: int) -> dict[str, str]:
    """Return path -> text. ``expected``: hash of the output that the self-test must come to."""
    name = written.name
    found = {
        "README.md": _readme(written),
        "main.c": _main(written, expected),
        "CMakeLists.txt": _cmake(name),
        "library.properties": _arduino(name),
        "library.json": _platformio(name),
        "examples/self_test/self_test.ino": _sketch(written, expected),
    }
    table = _feed(written, contract)
    return found | ({f"src/{name}_feed.h": table} if table else {})


def _self_test(written: Written, expected: int) -> str:
    """Return a function that runs the network on a pattern and says whether the answer is the reference's."""
    name, upper = written.name, written.name.upper()
    form = written.program.held[written.program.input].form
    assert form is not None
    pattern = f"{form.low} + (int32_t)((state >> 16) % {form.high - form.low + 1}U)"
    if written.program.window_bytes:
        return _streamed_test(written, expected, pattern)
    return f"""\
#include "{name}.h"

static uint8_t arena[{upper}_ARENA_BYTES] __attribute__((aligned(8)));

/* Runs the network on codes that look random; 0 when every code of the output is that of bitfront's reference. */
static int self_test(void) {{
    {name}_input_t *const input = {name}_input(arena);
    uint32_t state = 1, hash = 2166136261U, i;
    const uint8_t *output;
    for (i = 0; i < {upper}_INPUT_ELEMENTS; i++) {{
        state = state * 1664525U + 1013904223U;
        input[i] = ({name}_input_t)({pattern});
    }}
    {name}_run(arena);
    output = (const uint8_t *){name}_output(arena);
    for (i = 0; i < {upper}_OUTPUT_ELEMENTS * sizeof({name}_output_t); i++) {{
        hash = (hash ^ output[i]) * 16777619U;
    }}
    return hash == {expected}U ? 0 : 1;
}}
"""


def _streamed_test(written: Written, expected: int, pattern: str) -> str:
    name, upper = written.name, written.name.upper()
    return f"""\
#include "{name}.h"

static uint8_t arena[{upper}_ARENA_BYTES] __attribute__((aligned(8)));
static uint32_t state = 1;

/* Codes that look random; `context` counts the rows so far, since rows that nobody needs are not asked for. */
static void fetch(void *context, int32_t row, void *codes) {{
    {name}_input_t *const input = ({name}_input_t *)codes;
    int32_t *const next = (int32_t *)context;
    int32_t i;
    for (; *next <= row; (*next)++) {{
        for (i = 0; i < {upper}_INPUT_WIDTH * {upper}_INPUT_CHANNELS; i++) {{
            state = state * 1664525U + 1013904223U;
            input[i] = ({name}_input_t)({pattern});
        }}
    }}
}}

/* Runs the network on them; 0 when every code of the output is that of bitfront's reference. */
static int self_test(void) {{
    uint32_t hash = 2166136261U, i;
    int32_t next = 0;
    const uint8_t *output;
    state = 1;
    {name}_run(arena, fetch, &next);
    output = (const uint8_t *){name}_output(arena);
    for (i = 0; i < {upper}_OUTPUT_ELEMENTS * sizeof({name}_output_t); i++) {{
        hash = (hash ^ output[i]) * 16777619U;
    }}
    return hash == {expected}U ? 0 : 1;
}}
"""


def _main(written: Written, expected: int) -> str:
    return (
        "/* An example, and a test of the network on any machine: ends with 0 when it computes the right codes. */\n"
        + _self_test(written, expected)
        + "\nint main(void) {\n    return self_test();\n}\n"
    )


def _sketch(written: Written, expected: int) -> str:
    return (
        _self_test(written, expected)
        + """
void setup() {
    Serial.begin(115200);
    const unsigned long began = micros();
    const int failed = self_test();
    Serial.print(failed ? "FAILED, " : "passed, ");
    Serial.print(micros() - began);
    Serial.println(" us");
}

void loop() {}
"""
    )


def _cmake(name: str) -> str:
    return f"""\
cmake_minimum_required(VERSION 3.13)
project({name} C)

file(GLOB {name}_sources ${{CMAKE_CURRENT_SOURCE_DIR}}/src/*.c)
add_library({name} STATIC ${{{name}_sources}})
set_target_properties({name} PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF)
target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}}/src)
target_compile_options({name} PRIVATE -O2 -ffunction-sections -fdata-sections)

add_executable({name}_self_test main.c)
target_link_libraries({name}_self_test PRIVATE {name})
enable_testing()
add_test(NAME self_test COMMAND {name}_self_test)
"""


def _arduino(name: str) -> str:
    return (
        f"name={name}\nversion=1.0.0\nauthor=bitfront\nmaintainer=bitfront\nsentence=A network in fixed point.\n"
        f"paragraph=Written by bitfront {bitfront.__version__}.\ncategory=Data Processing\nurl=\narchitectures=*\n"
        f"includes={name}.h\n"
    )


def _platformio(name: str) -> str:
    facts = {"name": name, "version": "1.0.0", "frameworks": "*", "platforms": "*"}
    return json.dumps({**facts, "build": {"flags": "-O2", "srcDir": "src", "includeDir": "src"}}, indent=2) + "\n"


def _readme(written: Written) -> str:
    name = written.name
    return f"""\
# {name}: a network in fixed point

Written by bitfront {bitfront.__version__}. C99 without malloc; of the C library only memcpy and memset.
`manifest.json` says what it takes.

- `src/{name}.h`: how to feed, run and read it. `src/{name}.c`: its layers. `src/{name}_weights.h`: its constants.
- `src/bf_*`: the operators. `network.safetensors`: the network and its formats, for `bitfront verify`.
- `main.c` is a test on any machine: `cc -O2 -Isrc src/*.c main.c -o self_test && ./self_test && echo passed`

As a library: this folder is one for CMake (`add_subdirectory`), the Arduino IDE (Sketch, Include Library,
Add .ZIP Library) and PlatformIO (put it into `lib/`).
"""


def _feed(written: Written, contract: InputContract) -> str:
    """Return a table from pixels 0..255 of every channel to codes, so that no board computes in floating point."""
    held = written.program.held[written.program.input]
    if held.form is None or len(held.shape) != 3 or held.shape[0] != contract.channels:
        return ""
    pixels = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(v, np.float32)[: contract.channels, None] for v in (contract.mean, contract.std))
    if len(mean) != contract.channels:
        return ""
    codes = held.form.encode((pixels - mean) / std).astype(held.dtype)
    name, upper = written.name, written.name.upper()
    kind = c_text.C_TYPES[held.dtype.name]
    rows = ",\n".join("    {" + ", ".join(map(str, row)) + "}" for row in codes.tolist())
    return f"""\
/* The code of every pixel 0..255 ({contract.color}), channel by channel:
 *     input[i] = {name}_feed[i % {contract.channels}][pixel[i]]; */
#ifndef {upper}_FEED_H
#define {upper}_FEED_H

#include <stdint.h>

static const {kind} {name}_feed[{contract.channels}][256] = {{
{rows},
}};

#endif
"""
