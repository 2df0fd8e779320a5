/* A driver's libnvidia-ml.so.1 as NVML's public API describes it: what kit.memory.probes.nvml calls.
 *
 * STUB_SCENARIO says what kind of machine it plays:
 *   (unset)      two GPUs of 24 GiB; one process on the first
 *   no-driver    the kernel module is not loaded
 *   mismatch     library and kernel module are of different versions
 *   no-gpu       a driver without a GPU
 *   lost         the only GPU has fallen off the bus
 *   unknown      the same, as many drivers tell it: Unknown Error
 *   one-lost     the second of two GPUs has
 *   nonsense     figures that cannot be true: more in use than there is
 *   mig          one GPU of 80 GiB cut into instances of 40 and 20 GiB
 *   mig-empty    the same in MIG mode, with no instance made
 *   tenants      one GPU of 24 GiB, nearly full of other people's programs
 *   hidden       the memory of single processes is not told (WSL2, containers)
 *   silent       only name and UUID are told
 *   volta        one GPU of 32 GiB with an architecture that current builds have left behind
 *   old          a driver of 2022: CUDA 11.7, and an older interface
 *   pretended    the GPU of tests/gpu/pretended: its folder, PRETENDED_CARD, says all of it
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, NOT_LOADED = 9,
       NO_FUNCTION = 13, LOST = 15, MISMATCH = 18, UNKNOWN = 999 };
enum { FIRST = 1, SECOND, INSTANCE_40, INSTANCE_20 }; /* handles */
#define GIB(n) ((unsigned long long)((n) * 1073741824.0))

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

static int is(const char *scenario) {
    const char *chosen = getenv("STUB_SCENARIO");
    return chosen && strcmp(chosen, scenario) == 0;
}
static int in_mig_mode(void) { return is("mig") || is("mig-empty"); }
static int id(void *device) { return (int)(size_t)device; }
static int say(char *text, unsigned length, const char *answer) {
    strncpy(text, answer, length);
    return OK;
}

/* The pretended card: a file "gib", one file a process that holds memory, "lost" when it is. */
#define MOST 64
static double card_file(const char *name, double otherwise) {
    char path[512];
    double value = otherwise;
    snprintf(path, sizeof path, "%s/%s", getenv("PRETENDED_CARD"), name);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%lf", &value) != 1) value = otherwise;
    if (file) fclose(file);
    return value;
}
static int card_lost(void) {
    char path[512];
    if (!is("pretended")) return 0;
    snprintf(path, sizeof path, "%s/lost", getenv("PRETENDED_CARD"));
    return access(path, F_OK) == 0;
}
static unsigned card_processes(process_t *found) {
    unsigned count = 0;
    char proc[64];
    DIR *folder = opendir(getenv("PRETENDED_CARD"));
    for (struct dirent *entry; folder && count < MOST && (entry = readdir(folder));) {
        snprintf(proc, sizeof proc, "/proc/%.32s", entry->d_name);
        if (!isdigit(entry->d_name[0]) || access(proc, F_OK)) continue;
        found[count++] = (process_t){atoi(entry->d_name), card_file(entry->d_name, 0), 0, 0};
    }
    if (folder) closedir(folder);
    return count;
}
static unsigned long long card_used(void) {
    process_t found[MOST];
    unsigned long long used = GIB(0.5); /* the driver's own share */
    for (unsigned i = 0, count = card_processes(found); i < count; i++) used += found[i].used;
    return used;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return is("no-driver") ? NOT_LOADED : is("mismatch") ? MISMATCH : OK;
}
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    return say(text, length, is("old") ? "515.105.01" : is("volta") ? "570.124.06" : "580.65.06");
}
int nvmlSystemGetCudaDriverVersion(int *version) {
    *version = is("old") ? 11070 : is("volta") ? 12080 : 13000;
    return is("silent") ? NOT_SUPPORTED : OK;
}
int nvmlSystemGetProcessName(unsigned pid, char *text, unsigned length) {
    if (pid == 4711) return say(text, length, "/usr/bin/python3");
    if (pid == 4712) return say(text, length, "/usr/local/bin/ollama serve");
    if (pid == 4713) return say(text, length, "/usr/lib/xorg/Xorg");
    return NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int one = in_mig_mode() || is("pretended") || is("lost") || is("unknown") || is("tenants")
           || is("volta") || is("old") || is("silent");
    *count = is("no-gpu") ? 0 : one ? 1 : 2;
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (is("unknown")) return UNKNOWN;
    if (is("lost") || (is("one-lost") && index == 1) || card_lost()) return LOST;
    *device = (void *)(size_t)(index + FIRST);
    return OK;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
    static const char *uuids[] = {"", "GPU-aaaa", "GPU-bbbb", "MIG-cccc", "MIG-dddd"};
    return say(text, length, uuids[id(device)]);
}
int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    if (id(device) == INSTANCE_40) return say(text, length, "Stub 80 MIG 3g.40gb");
    if (id(device) == INSTANCE_20) return say(text, length, "Stub 80 MIG 2g.20gb");
    if (is("pretended")) return say(text, length, "Simulated GPU");
    return say(text, length, in_mig_mode() ? "Stub 80" : is("volta") ? "Stub 32" : "Stub 24");
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    static const int instance_gib[] = {40, 20};
    int gib = id(device) >= INSTANCE_40 ? instance_gib[id(device) - INSTANCE_40]
            : in_mig_mode() ? 80 : is("volta") ? 32 : 24;
    if (is("silent")) return NOT_SUPPORTED;
    if (is("pretended")) {
        memory->total = GIB(card_file("gib", 24));
        memory->used = card_used();
        memory->free = memory->total - memory->used;
        return OK;
    }
    if (is("nonsense")) {
        memory->total = GIB(24);
        memory->used = ~0ULL;
        return OK;
    }
    memory->total = GIB(gib);
    memory->used = is("tenants") ? GIB(21.5) : id(device) >= INSTANCE_40 ? GIB(0.25) : GIB(id(device));
    memory->free = memory->total - memory->used;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    (void)device;
    *major = is("volta") ? 7 : 8;
    *minor = is("volta") || in_mig_mode() ? 0 : 9;
    return is("silent") ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    *current = *pending = in_mig_mode();
    return in_mig_mode() && id(device) == FIRST ? OK : NOT_SUPPORTED; /* as on a card without MIG */
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    (void)device;
    *count = 7;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **instance) {
    (void)device;
    if (is("mig-empty") || index > 1) return NOT_FOUND;
    *instance = (void *)(size_t)(INSTANCE_40 + index);
    return OK;
}

static int list(unsigned wanted, const process_t *found, unsigned *count, process_t *processes) {
    unsigned room = *count;
    *count = wanted;
    if (wanted == 0) return OK;
    if (room < wanted) return INSUFFICIENT_SIZE;
    memcpy(processes, found, wanted * sizeof *found);
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, process_t *processes) {
    process_t both[] = {{4713, GIB(0.5), 0, 0}, {4711, GIB(3), 0, 0}};
    (void)device;
    if (is("silent")) return NOT_SUPPORTED;
    return list(is("tenants") ? 2 : 0, both, count, processes);
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *processes) {
    process_t found[] = {{4711, is("hidden") ? ~0ULL : GIB(3), 0, 0}, {4712, GIB(17.5), 0, 0}};
    if (is("silent")) return NOT_SUPPORTED;
    if (is("old")) return NO_FUNCTION;
    if (is("pretended")) {
        process_t here[MOST];
        return list(card_processes(here), here, count, processes);
    }
    if (id(device) != FIRST || in_mig_mode() || is("volta")) return list(0, found, count, processes);
    return list(is("tenants") ? 2 : 1, found, count, processes);
}
