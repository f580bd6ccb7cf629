/* Runs networks on an emulated Cortex-M: for every image a hash of all layers, and of every layer SysTick's ticks. */
#include <stdint.h>

#include "emulated_nets.h" /* nets[]: what to run */

extern uint32_t stack_top;
int main(void);

static volatile uint32_t *const systick = (volatile uint32_t *)0xE000E010;

static void semihost(uint32_t what, const void *with) {
    register uint32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void reset(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xFU << 20; /* floating point and vectors on */
    __asm__ volatile("dsb\n isb");
    main();
    semihost(0x18, (const void *)0x20026); /* exit */
    for (;;) {}
}

static void fault(void) {
    semihost(0x04, "FAULT\n");
    semihost(0x18, (const void *)0x20023);
    for (;;) {}
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};

static void print(char kind, uint32_t value) {
    char text[12];
    int i;
    text[0] = kind;
    text[1] = ' ';
    for (i = 0; i < 8; i++) { text[2 + i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15U]; }
    text[10] = '\n';
    text[11] = 0;
    semihost(0x04, text);
}

static uint32_t hash;

static void start(void) {
    systick[1] = 0xFFFFFF;
    systick[2] = 0;
    systick[0] = 5;
}

void bf_trace(int32_t layer, const void *codes, int32_t bytes);

/* The clock stands while a layer is hashed and told; it shows 0 until its first tick. */
void bf_trace(int32_t layer, const void *codes, int32_t bytes) {
    const uint32_t left = systick[2], ticks = left ? 0xFFFFFF - left : 0;
    const uint8_t *const byte = codes;
    int32_t i;
    (void)layer;
    print('T', ticks);
    for (i = 0; i < bytes; i++) { hash = (hash ^ byte[i]) * 16777619U; }
    start();
}

int main(void) {
    uint32_t i, k, n;
    for (i = 0; i < sizeof nets / sizeof *nets; i++) {
        for (k = 0; k < nets[i].n_images; k++) {
            for (n = 0; n < nets[i].n_bytes; n++) { nets[i].input[n] = nets[i].images[k * nets[i].n_bytes + n]; }
            hash = 2166136261U;
            start();
            nets[i].run(nets[i].arena);
            print('H', hash);
        }
    }
    return 0;
}
