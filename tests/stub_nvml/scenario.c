/* A libnvidia-ml.so.1 for machines without a GPU: it answers what a text file says. The file is named by
 * NVML_STUB_STATE and read again whenever it changes, so that a test can change the machine under a running reader.
 * Write it beside and rename it, so that no half of it is read. Of lines about the same thing the last one counts.
 *
 *   # a comment
 *   device INDEX TOTAL RESERVED USED      a GPU, bytes; as many GPUs as the highest INDEX says
 *   process DEVICE PID USED               a compute process on a device, bytes
 *   mps DEVICE PID USED                   the same, in the list of MPS clients
 *   graphics DEVICE PID USED              the same, in the list of graphics processes
 *   mig INDEX MODE                        1: MIG is on, 0: it is off; without this line the GPU has no MIG
 *   instance INDEX.SLOT GI CI TOTAL RESERVED USED     a MIG device: its DEVICE is written "0.1"
 *   count NUMBER                          how many GPUs are told, whatever the device lines say
 *
 *   return FUNCTION CODE [DEVICE]         the function fails with this nvmlReturn_t
 *   lost DEVICE                           every call about it fails with 15, looking it up with 999; when the line is
 *                                         gone a handle from before still fails: the GPU must be looked up again
 *   hang FUNCTION [DEVICE]                the function does not return while this line is there
 *
 *   value FUNCTION DEVICE NUMBER...       what a getter answers, in the order of its output parameters or of its
 *                                         struct's fields; one without such a line answers 3, not supported
 *   value FUNCTION/ARG/ARG DEVICE NUMBER  the same for one that is asked with arguments, such as a clock's type
 *   text FUNCTION DEVICE TEXT...          the same for a string; DEVICE is - where the function takes none
 *   field DEVICE FIELD_ID NUMBER [CODE]   a field of nvmlDeviceGetFieldValues; one without a line answers 3
 *
 *   xid SERIAL DEVICE CODE                an Xid event. Each SERIAL is delivered once; what is in the file before the
 *   event SERIAL DEVICE TYPE DATA         device is registered was long ago and is not delivered. event: of any type
 *
 * DEVICE may be * for all. A NUMBER is decimal or 0x..., "max" (2^64-1), or a series, which begins again whenever the
 * file changes:
 *
 *   1,2,3     one value per call; the last one stays
 *   1,2,3/s   one value per second
 *   1+10/s    grows by 10 per second
 *
 * When NVML_STUB_CALLS names a file, each call leaves a line in it: nanoseconds of the monotonic clock, pid, function,
 * device, "hangs" or "-". `build.sh FOLDER SYMBOL...` leaves functions out, as older drivers do. */

#include "stub.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char text[65536];
static struct line lines[LINES];
static unsigned count;
static struct stat seen;
static long long read_at;
static int was_lost[DEVICES];
static unsigned generation[DEVICES]; /* of handles: one more whenever a lost GPU is back */

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void cut(void)
{
    count = 0;
    for (char *row, *rows = text; (row = strsep(&rows, "\n")) && count < LINES;) {
        struct line *line = &lines[count];
        memset(line, 0, sizeof *line);
        for (char *word; (word = strsep(&row, " \t")) && line->words < WORDS;)
            if (*word == '#')
                break;
            else if (*word)
                line->word[line->words++] = word;
        count += line->words > 0;
    }
}

static void look(void)
{
    struct stat is;
    const char *path = getenv("NVML_STUB_STATE");
    if (!path || stat(path, &is)) {
        count = 0;
        return;
    }
    if (is.st_ino == seen.st_ino && is.st_size == seen.st_size && is.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        is.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    cut();
    seen = is;
    read_at = now();
    for (unsigned i = 0; i < DEVICES; i++) {
        char device[16];
        snprintf(device, sizeof device, "%u", i);
        int is_lost = find("lost", device, NULL) != NULL;
        generation[i] += was_lost[i] && !is_lost;
        was_lost[i] = is_lost;
    }
}

static int fits(struct line *line, unsigned column, const char *word)
{
    if (!word)
        return 1;
    return column < line->words && (!strcmp(line->word[column], word) || !strcmp(line->word[column], "*"));
}

struct line *find_next(struct line *line, const char *kind, const char *first, const char *second)
{
    for (line = line ? line + 1 : lines; line < lines + count; line++)
        if (!strcmp(line->word[0], kind) && fits(line, 1, first) && fits(line, 2, second))
            return line;
    return NULL;
}

struct line *find(const char *kind, const char *first, const char *second)
{
    struct line *last = NULL;
    for (struct line *line = NULL; (line = find_next(line, kind, first, second));)
        last = line;
    return last;
}

static number parse(const char *word)
{
    return strncmp(word, "max", 3) ? strtoull(word, NULL, 0) : -1ULL;
}

number read_number(struct line *line, unsigned column)
{
    if (column >= line->words)
        return 0;
    const char *word = line->word[column];
    double seconds = (now() - read_at) / 1e9;
    const char *plus = strchr(word, '+');
    if (plus)
        return parse(word) + (number)(strtod(plus + 1, NULL) * seconds);
    unsigned step = strstr(word, "/s") ? (unsigned)seconds : line->calls[column]++;
    for (const char *comma; step && (comma = strchr(word, ',')); step--)
        word = comma + 1;
    return parse(word);
}

const char *rest_of(struct line *line, unsigned column, char *into, unsigned length)
{
    unsigned used = 0;
    into[0] = 0;
    for (; column < line->words && used < length; column++)
        used += snprintf(into + used, length - used, "%s%s", used ? " " : "", line->word[column]);
    return into;
}

unsigned count_devices(void)
{
    unsigned devices = 0;
    for (struct line *line = NULL; (line = find_next(line, "device", NULL, NULL));)
        if (read_number(line, 1) < DEVICES && read_number(line, 1) >= devices)
            devices = read_number(line, 1) + 1;
    return devices;
}

void *handle_of(unsigned index, unsigned slot)
{
    return (void *)(uintptr_t)(generation[index] << 16 | (slot + 1) << 8 | (index + 1));
}

static int is_listed(const char *kind, struct call *call)
{
    for (struct line *line = NULL; (line = find_next(line, kind, call->function, NULL));)
        if (line->words < 3 || fits(line, 2, call->device))
            return 1;
    return 0;
}

/* The code of the last `return` line about this function that names this device or none. */
static int failure(struct call *call)
{
    int code = SUCCESS;
    for (struct line *line = NULL; (line = find_next(line, "return", call->function, NULL));)
        if (line->words < 4 || fits(line, 3, call->device))
            code = (int)read_number(line, 2);
    return code;
}

static void record(struct call *call, int hangs)
{
    const char *path = getenv("NVML_STUB_CALLS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%lld %d %s %s %s\n", now(), (int)getpid(), call->function, call->device,
                hangs ? "hangs" : "-");
        fclose(file);
    }
}

struct call enter(const char *function, const void *handle, int has_handle)
{
    uintptr_t bits = (uintptr_t)handle;
    struct call call = {function, (bits & 0xff) - 1, (bits >> 8 & 0xff) - 1, "-", SUCCESS};
    pthread_mutex_lock(&lock);
    look();
    if (has_handle && call.slot == SLOTS)
        snprintf(call.device, sizeof call.device, "%u", call.index);
    else if (has_handle)
        snprintf(call.device, sizeof call.device, "%u.%u", call.index, call.slot);
    record(&call, is_listed("hang", &call));
    while (is_listed("hang", &call))
        rest(20);
    call.code = failure(&call);
    if (has_handle && !call.code) {
        if (call.index >= DEVICES || call.slot > SLOTS)
            call.code = INVALID_ARGUMENT;
        else if (was_lost[call.index] || bits >> 16 != generation[call.index])
            call.code = GPU_IS_LOST;
    }
    return call;
}

void leave(struct call *call)
{
    (void)call;
    pthread_mutex_unlock(&lock);
}

void rest(unsigned ms)
{
    pthread_mutex_unlock(&lock);
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
    pthread_mutex_lock(&lock);
    look();
}
