/* A libnvidia-ml.so.1 for machines without a GPU. It answers what the text file named by NVML_STUB_STATE says, and reads
 * that file at every call, so that a test can change the machine under a running reader:
 *
 *   device INDEX TOTAL RESERVED USED      bytes
 *   process INDEX PID USED                bytes
 *   return FUNCTION CODE                  the function fails with this nvmlReturn_t
 *
 * -DOLD_DRIVER leaves out what drivers before 510 do not have. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, MAX = 16 };

struct device { unsigned long long total, reserved, used; };
struct process { unsigned device, pid; unsigned long long used; };
struct process_info { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

struct state {
    unsigned devices, processes;
    struct device device[MAX];
    struct process process[MAX];
    int failure;
};

static struct state look(const char *function)
{
    struct state state;
    char line[256], name[128];
    unsigned index, pid;
    unsigned long long a, b, c;
    int code;
    memset(&state, 0, sizeof state);
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file)
        return state;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "device %u %llu %llu %llu", &index, &a, &b, &c) == 4 && index < MAX) {
            state.device[index] = (struct device){a, b, c};
            if (index >= state.devices)
                state.devices = index + 1;
        } else if (sscanf(line, "process %u %u %llu", &index, &pid, &a) == 3 && state.processes < MAX) {
            state.process[state.processes++] = (struct process){index, pid, a};
        } else if (sscanf(line, "return %127s %d", name, &code) == 2 && strcmp(name, function) == 0) {
            state.failure = code;
        }
    }
    fclose(file);
    return state;
}

/* A handle is the device's index plus one. */
#define ENTER                               \
    struct state state = look(__func__);    \
    (void)state;                            \
    if (state.failure)                      \
        return state.failure
#define DEVICE                                                  \
    unsigned index = (unsigned)((uintptr_t)handle - 1);         \
    if (index >= state.devices)                                 \
        return INVALID_ARGUMENT

int nvmlInitWithFlags(unsigned flags) { ENTER; (void)flags; return SUCCESS; }
int nvmlShutdown(void) { ENTER; return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "stub"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) { ENTER; snprintf(text, length, "580.65.06"); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion(int *version) { ENTER; *version = 13010; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { ENTER; *count = state.devices; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    ENTER;
    if (index >= state.devices)
        return INVALID_ARGUMENT;
    *handle = (void *)(uintptr_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned length)
{
    ENTER;
    DEVICE;
    snprintf(text, length, "Stub GPU %u", index);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length)
{
    ENTER;
    DEVICE;
    snprintf(text, length, "GPU-stub-%u", index);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory)
{
    ENTER;
    DEVICE;
    struct device d = state.device[index];
    *memory = (struct memory){d.total, d.total - d.reserved - d.used, d.used + d.reserved};
    return SUCCESS;
}

static int list(struct state *state, unsigned device, unsigned *count, struct process_info *infos)
{
    unsigned found = 0;
    for (unsigned i = 0; i < state->processes; i++) {
        if (state->process[i].device != device)
            continue;
        if (infos && found < *count)
            infos[found] = (struct process_info){state->process[i].pid, state->process[i].used, -1u, -1u};
        found++;
    }
    int fits = infos ? found <= *count : found == 0;
    *count = found;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, struct process_info *infos)
{
    ENTER;
    DEVICE;
    return list(&state, index, count, infos);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *memory)
{
    ENTER;
    DEVICE;
    struct device d = state.device[index];
    if (memory->version != 0x02000028)
        return 25; /* NVML_ERROR_ARGUMENT_VERSION_MISMATCH */
    *memory = (struct memory_v2){memory->version, d.total, d.reserved, d.total - d.reserved - d.used, d.used};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process_info *infos)
{
    ENTER;
    DEVICE;
    return list(&state, index, count, infos);
}
#endif
