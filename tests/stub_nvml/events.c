/* Events: a set, what is registered with it, and a wait that blocks until one comes or its time is up. */

#include "stub.h"

#include <stdio.h>
#include <stdlib.h>

enum { XID = 8, SERIALS = 4096 };

struct event { void *device; number type, data; unsigned gpu_instance, compute_instance; };
struct set { number types[DEVICES]; };

static unsigned char taken[SERIALS];

int nvmlEventSetCreate(struct set **set)
{
    CALL_WITHOUT_DEVICE();
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}

int nvmlEventSetFree(struct set *set)
{
    CALL_WITHOUT_DEVICE();
    free(set);
    return SUCCESS;
}

int nvmlDeviceGetSupportedEventTypes(void *handle, number *types)
{
    CALL(handle);
    struct line *line = find("value", call.function, call.device);
    *types = line ? read_number(line, 3) : XID;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(void *handle, number types, struct set *set)
{
    CALL(handle);
    set->types[call.index] |= types;
    for (const char *const *kind = (const char *[]){"xid", "event", NULL}; *kind; kind++)
        for (struct line *line = NULL; (line = find_next(line, *kind, NULL, call.device));)
            taken[read_number(line, 1) % SERIALS] = 1;
    return SUCCESS;
}

static int take(struct set *set, const char *kind, struct event *event)
{
    for (struct line *line = NULL; (line = find_next(line, kind, NULL, NULL));) {
        unsigned serial = read_number(line, 1) % SERIALS, index = read_number(line, 2) % DEVICES;
        int is_xid = kind[0] == 'x';
        number type = is_xid ? XID : read_number(line, 3);
        if (taken[serial] || !(set->types[index] & type))
            continue;
        taken[serial] = 1;
        *event = (struct event){handle_of(index, SLOTS), type, read_number(line, is_xid ? 3 : 4), -1u, -1u};
        return 1;
    }
    return 0;
}

int nvmlEventSetWait_v2(struct set *set, struct event *event, unsigned timeout_ms)
{
    CALL_WITHOUT_DEVICE();
    for (unsigned waited_ms = 0;; waited_ms += 10) {
        if (take(set, "xid", event) || take(set, "event", event))
            return SUCCESS;
        if (waited_ms >= timeout_ms)
            return TIMEOUT;
        rest(10);
    }
}
