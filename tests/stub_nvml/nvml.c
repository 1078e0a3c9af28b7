/* The library itself, its devices, their memory and processes, and MIG. */

#include "stub.h"

#include <stdio.h>
#include <string.h>

struct process_info { unsigned pid; number used; unsigned gpu_instance, compute_instance; };
struct memory { number total, free, used; };
struct memory_v2 { unsigned version; number total, reserved, free, used; };

static const char *NO_DEVICE = "-";

static void write_text(struct call *call, const char *otherwise, char *text, unsigned length)
{
    struct line *line = find("text", call->function, call->device);
    if (line)
        rest_of(line, 3, text, length);
    else
        snprintf(text, length, "%s", otherwise);
}

/* --- the library ------------------------------------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags) { CALL_WITHOUT_DEVICE(); (void)flags; return SUCCESS; }
int nvmlShutdown(void) { CALL_WITHOUT_DEVICE(); return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "stub"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    CALL_WITHOUT_DEVICE();
    write_text(&call, "580.65.06", text, length);
    return SUCCESS;
}

int nvmlSystemGetNVMLVersion(char *text, unsigned length)
{
    CALL_WITHOUT_DEVICE();
    write_text(&call, "13.580.65.06", text, length);
    return SUCCESS;
}

static int cuda_version(struct call *call, int *version)
{
    struct line *line = find("value", call->function, NO_DEVICE);
    *version = line ? (int)read_number(line, 3) : 13010;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) { CALL_WITHOUT_DEVICE(); return cuda_version(&call, version); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { CALL_WITHOUT_DEVICE(); return cuda_version(&call, version); }

/* --- devices ------------------------------------------------------------------------------------------------------ */

int nvmlDeviceGetCount_v2(unsigned *devices)
{
    CALL_WITHOUT_DEVICE();
    struct line *line = find("count", NULL, NULL);
    *devices = line ? (unsigned)read_number(line, 1) : count_devices();
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    CALL_WITHOUT_DEVICE();
    char device[16];
    snprintf(device, sizeof device, "%u", index);
    if (index >= DEVICES || index >= count_devices())
        return INVALID_ARGUMENT;
    if (find("lost", device, NULL))
        return UNKNOWN;
    *handle = handle_of(index, SLOTS);
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned length)
{
    CALL(handle);
    char name[64];
    snprintf(name, sizeof name, "Stub GPU %s", call.device);
    write_text(&call, name, text, length);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length)
{
    CALL(handle);
    char uuid[64];
    snprintf(uuid, sizeof uuid, "%s-stub-%s", call.slot == SLOTS ? "GPU" : "MIG", call.device);
    write_text(&call, uuid, text, length);
    return SUCCESS;
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

static int read_memory(struct call *call, number *total, number *reserved, number *used)
{
    int is_instance = call->slot != SLOTS;
    struct line *line = find(is_instance ? "instance" : "device", call->device, NULL);
    unsigned column = is_instance ? 4 : 2;
    if (!line)
        return is_instance ? NOT_FOUND : INVALID_ARGUMENT;
    *total = read_number(line, column);
    *reserved = read_number(line, column + 1);
    *used = read_number(line, column + 2);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory)
{
    CALL(handle);
    number total, reserved, used;
    int code = read_memory(&call, &total, &reserved, &used);
    if (!code) /* the older call counts the driver's reserve as used */
        *memory = (struct memory){total, total - reserved - used, reserved + used};
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory)
{
    CALL(handle);
    number total, reserved, used;
    if (memory->version != 0x02000028)
        return ARGUMENT_VERSION_MISMATCH;
    int code = read_memory(&call, &total, &reserved, &used);
    if (!code)
        *memory = (struct memory_v2){memory->version, total, reserved, total - reserved - used, used};
    return code;
}

/* --- processes ---------------------------------------------------------------------------------------------------- */

/* Those of the device; asked about a whole GPU also those of its MIG devices, as for whoever may see all. */
static int list(struct call *call, const char *kind, unsigned *count, struct process_info *infos)
{
    unsigned found = 0;
    size_t length = strlen(call->device);
    for (struct line *line = NULL; (line = find_next(line, kind, NULL, NULL));) {
        int is_below = call->slot == SLOTS && !strncmp(line->word[1], call->device, length) && line->word[1][length] == '.';
        if (line->words < 4 || (strcmp(line->word[1], call->device) && !is_below))
            continue;
        struct line *instance = find("instance", line->word[1], NULL);
        if (infos && found < *count)
            infos[found] = (struct process_info){
                (unsigned)read_number(line, 2),
                read_number(line, 3),
                instance ? (unsigned)read_number(instance, 2) : -1u,
                instance ? (unsigned)read_number(instance, 3) : -1u,
            };
        found++;
    }
    int fits = infos ? found <= *count : found == 0;
    *count = found;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

#define PROCESSES(name, kind)                                                       \
    int name(void *handle, unsigned *count, struct process_info *infos)             \
    {                                                                               \
        CALL(handle);                                                               \
        return list(&call, kind, count, infos);                                     \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "process")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "process")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")

/* --- MIG ---------------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending)
{
    CALL(handle);
    struct line *line = find("mig", call.device, NULL);
    if (!line)
        return NOT_SUPPORTED;
    *current = *pending = (unsigned)read_number(line, 2);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *slots)
{
    CALL(handle);
    *slots = find("mig", call.device, NULL) ? SLOTS - 1 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned slot, void **instance)
{
    CALL(handle);
    char device[32];
    snprintf(device, sizeof device, "%u.%u", call.index, slot);
    if (slot >= SLOTS || !find("instance", device, NULL))
        return NOT_FOUND;
    *instance = handle_of(call.index, slot);
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **parent)
{
    CALL(handle);
    *parent = handle_of(call.index, SLOTS);
    return SUCCESS;
}

static int instance_id(struct call *call, unsigned column, unsigned *id)
{
    struct line *line = find("instance", call->device, NULL);
    if (!line)
        return NOT_FOUND;
    *id = (unsigned)read_number(line, column);
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) { CALL(handle); return instance_id(&call, 2, id); }
int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) { CALL(handle); return instance_id(&call, 3, id); }
