/* A driver's libnvidia-ml.so.1 with two GPUs: what kit.memory.nvml calls, by NVML's public API. */
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

int nvmlInit_v2(void) { return getenv("STUB_NO_DRIVER") ? 9 /* DRIVER_NOT_LOADED */ : 0; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(size_t)(index + 1);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 24ULL << 30;
    memory->used = (size_t)device * (1ULL << 30);
    memory->free = memory->total - memory->used;
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
    strncpy(text, (size_t)device == 1 ? "GPU-aaaa" : "GPU-bbbb", length);
    return 0;
}
int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    (void)device;
    strncpy(text, "Stub 24", length);
    return 0;
}
int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    strncpy(text, "580.65.06", length);
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *processes) {
    unsigned wanted = 1;
    if ((size_t)device != 1) { *count = 0; return 0; }
    if (*count < wanted) { *count = wanted; return 7; /* INSUFFICIENT_SIZE */ }
    *count = wanted;
    processes[0].pid = 4711;
    processes[0].used = getenv("STUB_NO_FIGURES") ? ~0ULL : 3ULL << 30;
    return 0;
}
