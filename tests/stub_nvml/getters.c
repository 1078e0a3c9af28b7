/* Getters: each answers what a `value` or `text` line of the scenario says, else that it is not supported. To add one,
 * add a line. */

#include "stub.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct line *line_of(struct call *call, const char *kind, unsigned arguments, ...)
{
    char name[160];
    unsigned used = snprintf(name, sizeof name, "%s", call->function);
    va_list list;
    va_start(list, arguments);
    while (arguments--)
        used += snprintf(name + used, sizeof name - used, "/%u", va_arg(list, unsigned));
    va_end(list);
    return find(kind, name, call->device);
}

/* (device, T *): `value FUNCTION DEVICE NUMBER` */
#define ONE(name, T)                                                        \
    int name(void *handle, T *a)                                            \
    {                                                                       \
        CALL(handle);                                                       \
        struct line *line = line_of(&call, "value", 0);                     \
        return line ? *a = (T)read_number(line, 3), SUCCESS : NOT_SUPPORTED; \
    }
/* (device, T *, T *): `value FUNCTION DEVICE NUMBER NUMBER` */
#define TWO(name, T)                                                        \
    int name(void *handle, T *a, T *b)                                      \
    {                                                                       \
        CALL(handle);                                                       \
        struct line *line = line_of(&call, "value", 0);                     \
        if (!line)                                                          \
            return NOT_SUPPORTED;                                           \
        *a = (T)read_number(line, 3);                                       \
        *b = (T)read_number(line, 4);                                       \
        return SUCCESS;                                                     \
    }
/* (device, argument, T *): `value FUNCTION/ARGUMENT DEVICE NUMBER` */
#define ONE_BY_ONE(name, T)                                                 \
    int name(void *handle, unsigned by, T *a)                               \
    {                                                                       \
        CALL(handle);                                                       \
        struct line *line = line_of(&call, "value", 1, by);                 \
        return line ? *a = (T)read_number(line, 3), SUCCESS : NOT_SUPPORTED; \
    }
/* (device, argument, argument, T *): `value FUNCTION/ARGUMENT/ARGUMENT DEVICE NUMBER` */
#define ONE_BY_TWO(name, T)                                                 \
    int name(void *handle, unsigned by, unsigned and_by, T *a)              \
    {                                                                       \
        CALL(handle);                                                       \
        struct line *line = line_of(&call, "value", 2, by, and_by);         \
        return line ? *a = (T)read_number(line, 3), SUCCESS : NOT_SUPPORTED; \
    }
/* (device, text, length): `text FUNCTION DEVICE TEXT` */
#define TEXT(name)                                                          \
    int name(void *handle, char *text, unsigned length)                     \
    {                                                                       \
        CALL(handle);                                                       \
        struct line *line = line_of(&call, "text", 0);                      \
        return line ? (void)rest_of(line, 3, text, length), SUCCESS : NOT_SUPPORTED; \
    }

ONE(nvmlDeviceGetBoardId, unsigned)
ONE(nvmlDeviceGetComputeMode, unsigned)
ONE(nvmlDeviceGetCurrPcieLinkGeneration, unsigned)
ONE(nvmlDeviceGetCurrPcieLinkWidth, unsigned)
ONE(nvmlDeviceGetCurrentClocksEventReasons, number)
ONE(nvmlDeviceGetCurrentClocksThrottleReasons, number)
ONE(nvmlDeviceGetEnforcedPowerLimit, unsigned)
ONE(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned)
ONE(nvmlDeviceGetMaxPcieLinkGeneration, unsigned)
ONE(nvmlDeviceGetMaxPcieLinkWidth, unsigned)
ONE(nvmlDeviceGetPcieReplayCounter, unsigned)
ONE(nvmlDeviceGetPerformanceState, unsigned)
ONE(nvmlDeviceGetPersistenceMode, unsigned)
ONE(nvmlDeviceGetPowerManagementDefaultLimit, unsigned)
ONE(nvmlDeviceGetPowerManagementLimit, unsigned)
ONE(nvmlDeviceGetPowerState, unsigned)
ONE(nvmlDeviceGetPowerUsage, unsigned)
ONE(nvmlDeviceGetRetiredPagesPendingStatus, unsigned)
ONE(nvmlDeviceGetSupportedClocksEventReasons, number)
ONE(nvmlDeviceGetSupportedClocksThrottleReasons, number)
ONE(nvmlDeviceGetTotalEnergyConsumption, number)
TWO(nvmlDeviceGetCudaComputeCapability, int)
TWO(nvmlDeviceGetEccMode, unsigned)
TWO(nvmlDeviceGetPowerManagementLimitConstraints, unsigned)
TWO(nvmlDeviceGetEncoderUtilization, unsigned)
ONE_BY_ONE(nvmlDeviceGetApplicationsClock, unsigned)
ONE_BY_ONE(nvmlDeviceGetClockInfo, unsigned)
ONE_BY_ONE(nvmlDeviceGetMaxClockInfo, unsigned)
ONE_BY_ONE(nvmlDeviceGetNvLinkState, unsigned)
ONE_BY_ONE(nvmlDeviceGetNvLinkVersion, unsigned)
ONE_BY_ONE(nvmlDeviceGetPcieThroughput, unsigned)
ONE_BY_ONE(nvmlDeviceGetTemperature, unsigned)
ONE_BY_ONE(nvmlDeviceGetTemperatureThreshold, unsigned)
ONE_BY_TWO(nvmlDeviceGetClock, unsigned)
ONE_BY_TWO(nvmlDeviceGetNvLinkErrorCounter, number)
ONE_BY_TWO(nvmlDeviceGetTotalEccErrors, number)
TEXT(nvmlDeviceGetInforomImageVersion)
TEXT(nvmlDeviceGetSerial)
TEXT(nvmlDeviceGetVbiosVersion)

int nvmlDeviceGetGspFirmwareVersion(void *handle, char *text) /* 64 bytes, the header says */
{
    CALL(handle);
    struct line *line = line_of(&call, "text", 0);
    return line ? (void)rest_of(line, 3, text, 64), SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMemoryErrorCounter(void *handle, unsigned error, unsigned counter, unsigned place, number *a)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 3, error, counter, place);
    return line ? *a = read_number(line, 3), SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetRemappedRows(void *handle, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 0);
    if (!line)
        return NOT_SUPPORTED;
    *correctable = (unsigned)read_number(line, 3);
    *uncorrectable = (unsigned)read_number(line, 4);
    *pending = (unsigned)read_number(line, 5);
    *failed = (unsigned)read_number(line, 6);
    return SUCCESS;
}

/* `value nvmlDeviceGetRetiredPages/CAUSE DEVICE ADDRESS...`, possibly none */
int nvmlDeviceGetRetiredPages(void *handle, unsigned cause, unsigned *count, number *addresses)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 1, cause);
    if (!line)
        return NOT_SUPPORTED;
    unsigned found = line->words - 3, room = *count;
    *count = found;
    if (!addresses || found > room)
        return found ? INSUFFICIENT_SIZE : SUCCESS;
    for (unsigned i = 0; i < found; i++)
        addresses[i] = read_number(line, 3 + i);
    return SUCCESS;
}

/* --- structs: the numbers of the line fill the fields after `version`, in their order --------------------------------- */

struct temperature { unsigned version, sensor; int celsius; };
struct margin { unsigned version; int kelvin; };
struct pair { number reference, violation; };
struct utilization { unsigned gpu, memory; };
struct repair { unsigned version, channel_pending, tpc_pending; };
struct unrepairable { unsigned version, flag; };
struct sram { unsigned version; number counts[11]; unsigned threshold_exceeded; };

int nvmlDeviceGetTemperatureV(void *handle, struct temperature *t) /* value nvmlDeviceGetTemperatureV/SENSOR */
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 1, t->sensor);
    return line ? t->celsius = (int)read_number(line, 3), SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMarginTemperature(void *handle, struct margin *m)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 0);
    return line ? m->kelvin = (int)read_number(line, 3), SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetViolationStatus(void *handle, unsigned policy, struct pair *p)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 1, policy);
    return line ? *p = (struct pair){read_number(line, 3), read_number(line, 4)}, SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetUtilizationRates(void *handle, struct utilization *u)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 0);
    if (!line)
        return NOT_SUPPORTED;
    *u = (struct utilization){(unsigned)read_number(line, 3), (unsigned)read_number(line, 4)};
    return SUCCESS;
}

int nvmlDeviceGetRepairStatus(void *handle, struct repair *r)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 0);
    if (!line)
        return NOT_SUPPORTED;
    r->channel_pending = (unsigned)read_number(line, 3);
    r->tpc_pending = (unsigned)read_number(line, 4);
    return SUCCESS;
}

int nvmlDeviceGetUnrepairableMemoryFlag_v1(void *handle, struct unrepairable *u)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 0);
    return line ? u->flag = (unsigned)read_number(line, 3), SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetSramEccErrorStatus(void *handle, struct sram *s)
{
    CALL(handle);
    struct line *line = line_of(&call, "value", 0);
    if (!line)
        return NOT_SUPPORTED;
    for (unsigned i = 0; i < 11; i++)
        s->counts[i] = read_number(line, 3 + i);
    s->threshold_exceeded = (unsigned)read_number(line, 14);
    return SUCCESS;
}

/* --- field values -------------------------------------------------------------------------------------------------------- */

struct field { unsigned id, scope; long long timestamp, latency_us; unsigned type, code; number value; };

int nvmlDeviceGetFieldValues(void *handle, int count, struct field *fields)
{
    CALL(handle);
    for (int i = 0; i < count; i++) {
        char id[16];
        snprintf(id, sizeof id, "%u", fields[i].id);
        struct line *line = find("field", call.device, id);
        fields[i].type = 3; /* NVML_VALUE_TYPE_UNSIGNED_LONG_LONG */
        fields[i].code = !line ? NOT_SUPPORTED : line->words > 4 ? (unsigned)read_number(line, 4) : SUCCESS;
        fields[i].value = line ? read_number(line, 3) : 0;
        if (line && line->word[3][0] == '-')
            fields[i].type = 5; /* NVML_VALUE_TYPE_SIGNED_INT */
    }
    return SUCCESS;
}
