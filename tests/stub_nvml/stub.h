/* What the files of the stub share. The scenario's language is described in scenario.c. */

#pragma once

#include <stdint.h>

enum { /* nvmlReturn_t of nvml.h */
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999,
};

enum { DEVICES = 16, SLOTS = 8, WORDS = 40, LINES = 256 };

typedef unsigned long long number;

/* One line of the scenario, cut into words; calls: how often each word was read as a number. */
struct line {
    unsigned words;
    char *word[WORDS];
    unsigned calls[WORDS];
};

/* A call under way. It holds the stub's lock until it goes out of scope. */
struct call {
    const char *function;
    unsigned index, slot; /* slot: of a MIG device; SLOTS for the whole GPU */
    char device[16];      /* "0", "0.1" for a MIG device, "-" for a call about no device */
    int code;
};

struct call enter(const char *function, const void *handle, int has_handle);
void leave(struct call *call);
void rest(unsigned ms); /* lets other threads in */

/* The last line that begins with these words (NULL: any); NULL when there is none. A "*" in the scenario fits all. */
struct line *find(const char *kind, const char *first, const char *second);
/* The next such line after `line`, in the order of the file; `find_next(NULL, ...)` is the first. */
struct line *find_next(struct line *line, const char *kind, const char *first, const char *second);
number read_number(struct line *line, unsigned column);
const char *rest_of(struct line *line, unsigned column, char *text, unsigned length);
void *handle_of(unsigned index, unsigned slot);
unsigned count_devices(void);

#define CALL(handle)                                                                            \
    struct call call __attribute__((cleanup(leave))) = enter(__func__, (handle), 1);            \
    if (call.code)                                                                              \
        return call.code
#define CALL_WITHOUT_DEVICE()                                                                   \
    struct call call __attribute__((cleanup(leave))) = enter(__func__, (void *)0, 0);           \
    if (call.code)                                                                              \
        return call.code
