/* Runs networks on a computer, for tests: codes come through stdin and go through stdout.
 *
 * A request: number of the network (4 bytes), whether every layer is to be shown (4 bytes), the input's codes. The answer:
 * the codes of every layer, if asked for, and the output's. Ends with its input.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host_nets.h" /* NETS: one HOST_NET a network */

void bf_trace(int32_t layer, const void *codes, int32_t bytes);

static int is_shown;

void bf_trace(int32_t layer, const void *codes, int32_t bytes) {
    (void)layer;
    if (is_shown) {
        fwrite(codes, 1, (size_t)bytes, stdout);
    }
}

typedef struct {
    void (*run)(void *arena);
    void *arena;
    void *input;
    size_t input_bytes, output_at, output_bytes;
} host_net;

#define HOST_NET(name, run, input, n_in, output, n_out) {run, name##_arena, input, n_in, output, n_out},
static const host_net nets[] = {NETS};

int main(void) {
    uint32_t head[2];
    while (fread(head, sizeof head, 1, stdin) == 1 && head[0] < sizeof nets / sizeof *nets) {
        const host_net *const net = nets + head[0];
        uint8_t *const arena = net->arena;
        if (fread(net->input, 1, net->input_bytes, stdin) != net->input_bytes) {
            return 1;
        }
        is_shown = head[1] != 0;
        net->run(arena);
        fwrite(arena + net->output_at, 1, net->output_bytes, stdout);
        fflush(stdout);
    }
    return 0;
}
