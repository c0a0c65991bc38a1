/* NVIDIA's management library without a GPU, for the tests: NVML's symbols, with the structures and values of nvml.h.
 *
 * Every gauge is a wave of CLOCK_MONOTONIC, base + swing * sin(2 pi t / PERIOD_S + phase), every counter the exact
 * integral of its gauge since t = 0: so sums and means can be checked. The file $FAKE_NVML says what is different.
 */
#include <math.h>

#include "fake_nvml_control.h"

enum { MAX_MIG = 7, WHOLE_GPU = -1, ALL_LINKS = -1, LINKS = 18 };
enum { REASON_GPU_IDLE = 0x1, REASON_SW_POWER_CAP = 0x4 };
enum { TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };
#define PERIOD_S 8.0
#define MIB 1048576.0
#ifdef OLD_DRIVER
#define DRIVER "515.65.01"
#else
#define DRIVER "580.65.06"
#endif

typedef struct { int gpu, instance; } Device; /* instance: NVML's index of a MIG device, or WHOLE_GPU */
typedef struct { const char *name; double base, swing; } Gauge;
static const Gauge GAUGES[] = {
    {"utilization_percent", 50, 60}, /* beyond 0 and 100: there it stays for a while, idle or busy */
    {"memory_utilization_percent", 40, 30},
    {"memory_total_bytes", 143771 * MIB, 0},
    {"memory_used_bytes", 40960 * MIB, 10240 * MIB},
    {"power_mw", 400000, 290000},
    {"power_instant_mw", 410000, 280000},
    {"power_limit_mw", 700000, 0},
    {"temperature_c", 55, 15},
    {"sm_clock_mhz", 1500, 480},
    {"memory_clock_mhz", 3201, 0},
    {"clocks_event_reasons", 0, 0}, /* unless constant, it follows from power and utilization */
    {"pcie_rx_kib_s", 2000000, 1000000},
    {"pcie_tx_kib_s", 1000000, 500000},
    {"nvlink_rx_kib_s", 40000000, 20000000},
    {"nvlink_tx_kib_s", 30000000, 15000000},
    {"ecc_corrected", 3, 0},
    {"ecc_uncorrected", 0, 0},
    {"sm_active_percent", 60, 30},
    {"sm_occupancy_percent", 30, 10},
    {"tensor_active_percent", 25, 20},
    {"dram_bandwidth_percent", 40, 30},
    {"energy_mj", 0, 0}, /* unless constant, the integral of power_mw */
};
#define GAUGE_COUNT (sizeof GAUGES / sizeof *GAUGES)

/* ---- Values ---- */

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return control->clock_s >= 0 ? control->clock_s : (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static const Gauge *gauge(const char *name) {
    for (size_t i = 0; i < GAUGE_COUNT; i++)
        if (!strcmp(GAUGES[i].name, name)) return &GAUGES[i];
    abort();
}

static double phase(const Device *device) { return device->gpu + 0.3 * (device->instance - WHOLE_GPU); }

static double integral(const Device *device, const char *name, double t) {
    const double *fixed = constant(name, device->gpu), omega = 2 * M_PI / PERIOD_S;
    const Gauge *wave = gauge(name);
    if (fixed) return *fixed * t;
    return wave->base * t + wave->swing / omega * (cos(phase(device)) - cos(omega * t + phase(device)));
}

static double value(const Device *device, const char *name) {
    const double *fixed = constant(name, device->gpu), t = now_s();
    const Gauge *wave = gauge(name);
    if (fixed) return *fixed;
    if (!strcmp(name, "energy_mj"))
        return integral(device, "power_mw", t) -
               (control->energy_reset_s >= 0 && t >= control->energy_reset_s
                    ? integral(device, "power_mw", control->energy_reset_s) : 0);
    if (!strcmp(name, "clocks_event_reasons"))
        return (value(device, "utilization_percent") <= 0 ? REASON_GPU_IDLE : 0) |
               (value(device, "power_mw") > 0.9 * value(device, "power_limit_mw") ? REASON_SW_POWER_CAP : 0);
    double now = wave->base + wave->swing * sin(2 * M_PI * t / PERIOD_S + phase(device));
    return strcmp(name, "utilization_percent") ? now : fmin(100, fmax(0, now));
}

/* Of an instance NVML tells its name, its memory and, by GPM, its activity. */
static int read_value(const Device *device, const char *name, unsigned long long *result) {
    int code = device->instance != WHOLE_GPU ? NOT_SUPPORTED : refusal(name, device->gpu);
    if (!code) *result = (unsigned long long)llround(value(device, name));
    return code;
}

static int read_uint(const Device *device, const char *name, unsigned int *result) {
    unsigned long long wide;
    int code = read_value(device, name, &wide);
    if (!code) *result = (unsigned int)wide;
    return code;
}

/* ---- The library ---- */

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    ENTER(NO_GPU);
    if (!control->init) sessions++;
    return control->init;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { ENTER(NO_GPU); sessions--; return SUCCESS; }

const char *nvmlErrorString(int code) {
    static char text[NAME];
    snprintf(text, sizeof text, "fake error %d", code);
    return text;
}

static int text(char *buffer, unsigned int size, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int length = vsnprintf(buffer, size, format, values);
    va_end(values);
    return length < (int)size ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlSystemGetDriverVersion(char *version, unsigned int size) { ENTER(NO_GPU); return text(version, size, DRIVER); }
int nvmlDeviceGetCount_v2(unsigned int *count) { ENTER(NO_GPU); *count = control->count; return SUCCESS; }

/* NVML's index of an instance: it leaves a gap, as it is on a GPU whose second instance was taken away. */
static int has_instance(int gpu, int index) {
    return index == 0 ? control->mig[gpu] > 0 : index > 1 && index <= control->mig[gpu] && index < MAX_MIG;
}

static Device *handle(int gpu, int instance) {
    static Device devices[MAX_GPUS][1 + MAX_MIG];
    Device *device = &devices[gpu][1 + instance];
    device->gpu = gpu, device->instance = instance;
    return device;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **device) {
    ENTER((int)index);
    *device = handle((int)index, WHOLE_GPU);
    return SUCCESS;
}

static int uuid(const Device *device, char *buffer, unsigned int size) {
    const char *kind = device->instance == WHOLE_GPU ? "GPU" : "MIG";
    return text(buffer, size, "%s-1f0%x%04x-5a4b-4c3d-8e2f-0123456789ab", kind, device->gpu, 1 + device->instance);
}

int nvmlDeviceGetHandleByUUID(const char *wanted, Device **device) {
    char found[96];
    ENTER(NO_GPU);
    for (int gpu = 0; gpu < control->count; gpu++)
        for (int instance = WHOLE_GPU; instance < MAX_MIG; instance++) {
            Device *each = handle(gpu, instance);
            uuid(each, found, sizeof found);
            if (strcmp(found, wanted) || (instance != WHOLE_GPU && !has_instance(gpu, instance))) continue;
            *device = each;
            return control->lost[gpu] ? GPU_IS_LOST : SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *device, char *buffer, unsigned int size) {
    ENTER_DEVICE(device);
    return uuid(device, buffer, size);
}

int nvmlDeviceGetName(Device *device, char *name, unsigned int size) {
    ENTER_DEVICE(device);
    return text(name, size, device->instance == WHOLE_GPU ? "NVIDIA H200" : "NVIDIA H200 MIG 1g.18gb");
}

typedef struct { char legacy[16]; unsigned int domain, bus, device, id, subsystem; char bus_id[32]; } PciInfo;
int nvmlDeviceGetPciInfo_v3(Device *device, PciInfo *info) {
    ENTER_DEVICE(device);
    *info = (PciInfo){.bus = 0x1a + 0x10 * device->gpu, .id = 0x233510de};
    text(info->legacy, sizeof info->legacy, "0000:%02X:00.0", info->bus);
    return text(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus);
}

int nvmlDeviceGetMigMode(Device *device, unsigned int *current, unsigned int *pending) {
    ENTER_DEVICE(device);
    *current = *pending = control->mig[device->gpu] > 0;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned int *count) {
    ENTER_DEVICE(device);
    *count = MAX_MIG;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned int index, Device **instance) {
    ENTER_DEVICE(device);
    if (index >= MAX_MIG || device->instance != WHOLE_GPU) return INVALID_ARGUMENT;
    *instance = handle(device->gpu, (int)index);
    return has_instance(device->gpu, (int)index) ? SUCCESS : NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *instance, Device **device) {
    ENTER_DEVICE(instance);
    *device = handle(instance->gpu, WHOLE_GPU);
    return instance->instance == WHOLE_GPU ? INVALID_ARGUMENT : SUCCESS;
}
int nvmlDeviceGetGpuInstanceId(Device *device, unsigned int *id) { /* is not the index */
    ENTER_DEVICE(device);
    *id = 7 + device->instance;
    return device->instance == WHOLE_GPU ? NOT_SUPPORTED : SUCCESS;
}

typedef struct { unsigned int gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    ENTER_DEVICE(device);
    if (control->mig[device->gpu]) return NOT_SUPPORTED;
    int code = read_uint(device, "utilization_percent", &rates->gpu);
    return code ? code : read_uint(device, "memory_utilization_percent", &rates->memory);
}

static const double RESERVED = 500 * MIB;
static int memory(const Device *device, double *total, double *used) {
    double share = device->instance == WHOLE_GPU ? 1 : 1 / 8.0;
    *total = share * value(device, "memory_total_bytes"), *used = share * value(device, "memory_used_bytes");
    int code = refusal("memory_total_bytes", device->gpu);
    return code ? code : refusal("memory_used_bytes", device->gpu);
}
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(Device *device, Memory *info) {
    double total, used;
    ENTER_DEVICE(device);
    int code = memory(device, &total, &used);
    *info = (Memory){total, total - used - RESERVED, used + RESERVED};
    return code;
}
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } MemoryV2;
int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *info) {
    double total, used;
    ENTER_DEVICE(device);
    if (info->version != (sizeof *info | 2 << 24)) return VERSION_MISMATCH;
    int code = memory(device, &total, &used);
    *info = (MemoryV2){info->version, total, RESERVED, total - used - RESERVED, used};
    return code;
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned int *power_mw) {
    ENTER_DEVICE(device);
    return read_uint(device, "power_mw", power_mw);
}
int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned int *limit_mw) {
    ENTER_DEVICE(device);
    return read_uint(device, "power_limit_mw", limit_mw);
}
int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *energy_mj) {
    ENTER_DEVICE(device);
    return read_value(device, "energy_mj", energy_mj);
}

typedef struct {
    unsigned int id, scope;
    long long timestamp_us, latency_us;
    int type, code; /* type: 1 is unsigned int, 3 is unsigned long long */
    union { unsigned int narrow; unsigned long long wide; } value;
} FieldValue;

/* The traffic of a link since t = 0: of PCIe in bytes, of NVLink in KiB, of one link or of all. */
static int traffic(const Device *device, FieldValue *f) {
    const char *gauge = f->id == 138 ? "nvlink_tx_kib_s" : f->id == 139 ? "nvlink_rx_kib_s" :
                        f->id == 197 ? "pcie_tx_kib_s" : f->id == 198 ? "pcie_rx_kib_s" : NULL;
    if (!gauge) return INVALID_ARGUMENT;
    int is_nvlink = gauge[0] == 'n', is_total = f->scope == (unsigned int)ALL_LINKS;
    if (is_nvlink && !is_total && f->scope >= LINKS) return INVALID_ARGUMENT;
    double kib = integral(device, gauge, now_s());
    f->value.wide = !is_nvlink ? kib * 1024 : is_total ? kib : kib / LINKS;
    if (!is_nvlink && control->pcie_bits == 32) f->type = TYPE_UNSIGNED_INT, f->value.wide &= 0xffffffff;
    return refusal(gauge, device->gpu);
}

static int field(const Device *device, FieldValue *f) {
    char key[NAME];
    snprintf(key, sizeof key, "field:%u", f->id);
    int code = device->instance == WHOLE_GPU ? refusal(key, device->gpu) : NOT_SUPPORTED;
    f->type = TYPE_UNSIGNED_LONG_LONG;
    if (code) return code;
    if (f->id == 83) return read_value(device, "energy_mj", &f->value.wide);
#ifdef OLD_DRIVER
    if (f->id > 184) return INVALID_ARGUMENT;
#endif
    if (f->id != 185 && f->id != 186) return traffic(device, f);
    f->type = TYPE_UNSIGNED_INT;
    return read_uint(device, f->id == 185 ? "power_mw" : "power_instant_mw", &f->value.narrow);
}

int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *fields) {
    struct timespec now;
    ENTER_DEVICE(device);
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        fields[i].timestamp_us = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
        fields[i].code = field(device, &fields[i]);
    }
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned int *degrees_c) {
    ENTER_DEVICE(device);
    return sensor ? INVALID_ARGUMENT : read_uint(device, "temperature_c", degrees_c);
}
int nvmlDeviceGetClockInfo(Device *device, int clock, unsigned int *mhz) {
    ENTER_DEVICE(device);
    if (clock == 1) return read_uint(device, "sm_clock_mhz", mhz);
    return clock == 2 ? read_uint(device, "memory_clock_mhz", mhz) : INVALID_ARGUMENT;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *reasons) {
    ENTER_DEVICE(device);
    return read_value(device, "clocks_event_reasons", reasons);
}
int nvmlDeviceGetPcieThroughput(Device *device, int way, unsigned int *kib_s) {
    ENTER_DEVICE(device);
    int code = read_uint(device, way ? "pcie_rx_kib_s" : "pcie_tx_kib_s", kib_s);
    if (!code) nanosleep(&(struct timespec){control->pcie_ms / 1000, control->pcie_ms % 1000 * 1000000L}, NULL);
    return code;
}
int nvmlDeviceGetTotalEccErrors(Device *device, int kind, int since_ever, unsigned long long *errors) {
    ENTER_DEVICE(device);
    int code = read_value(device, kind ? "ecc_uncorrected" : "ecc_corrected", errors);
    if (!code && since_ever) *errors += 1000;
    return code;
}

/* ---- What old drivers do not have ---- */

#ifndef OLD_DRIVER
typedef struct { unsigned int version; int sensor, degrees_c; } Temperature;
int nvmlDeviceGetTemperatureV(Device *device, Temperature *temperature) {
    ENTER_DEVICE(device);
    if (temperature->version != (sizeof *temperature | 1 << 24)) return VERSION_MISMATCH;
    if (temperature->sensor) return INVALID_ARGUMENT;
    return read_uint(device, "temperature_c", (unsigned int *)&temperature->degrees_c);
}
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
    ENTER_DEVICE(device);
    return read_value(device, "clocks_event_reasons", reasons);
}

typedef struct { Device device; double t; } GpmSample;
typedef struct { unsigned int version, supported; } GpmSupport;
int nvmlGpmQueryDeviceSupport(Device *device, GpmSupport *support) {
    ENTER_DEVICE(device);
    support->supported = control->gpm;
    if (device->instance != WHOLE_GPU) return INVALID_ARGUMENT; /* one asks the GPU */
    return support->version == 1 ? SUCCESS : VERSION_MISMATCH;
}
int nvmlGpmSampleAlloc(GpmSample **sample) {
    ENTER(NO_GPU);
    *sample = calloc(1, sizeof **sample);
    return SUCCESS;
}
int nvmlGpmSampleFree(GpmSample *sample) { ENTER(NO_GPU); free(sample); return SUCCESS; }
int nvmlGpmSampleGet(Device *device, GpmSample *sample) {
    ENTER_DEVICE(device);
    if (!control->gpm || device->instance != WHOLE_GPU) return NOT_SUPPORTED;
    *sample = (GpmSample){*device, now_s()};
    return SUCCESS;
}
int nvmlGpmMigSampleGet(Device *device, unsigned int id, GpmSample *sample) {
    ENTER_DEVICE(device);
    if (!control->gpm || device->instance != WHOLE_GPU) return NOT_SUPPORTED;
    if (id < 7 || !has_instance(device->gpu, (int)id - 7)) return NOT_FOUND;
    *sample = (GpmSample){{device->gpu, (int)id - 7}, now_s()};
    return SUCCESS;
}

typedef struct {
    unsigned int id;
    int code;
    double value;
    const char *short_name, *long_name, *unit;
} GpmMetric;
typedef struct { unsigned int version, count; GpmSample *from, *to; GpmMetric metrics[]; } GpmMetrics;
int nvmlGpmMetricsGet(GpmMetrics *wanted) {
    ENTER(NO_GPU);
    const GpmSample *from = wanted->from, *to = wanted->to;
    if (wanted->version != 1) return VERSION_MISMATCH;
    if (from->device.gpu != to->device.gpu || from->device.instance != to->device.instance || to->t <= from->t)
        return INVALID_ARGUMENT;
    for (unsigned int i = 0; i < wanted->count; i++) {
        GpmMetric *metric = &wanted->metrics[i];
        unsigned int id = metric->id;
        const char *name = id == 2 ? "sm_active_percent" : id == 3 ? "sm_occupancy_percent" :
                           id == 5 ? "tensor_active_percent" : id == 10 ? "dram_bandwidth_percent" :
                           id == 60 ? "nvlink_rx_kib_s" : id == 61 ? "nvlink_tx_kib_s" : NULL;
        metric->code = name ? refusal(name, to->device.gpu) : NOT_SUPPORTED;
        if (metric->code) continue;
        metric->value = integral(&to->device, name, to->t) - integral(&to->device, name, from->t);
        metric->value /= (to->t - from->t) * (id >= 60 ? 1024 : 1);
    }
    return SUCCESS;
}
#endif

/* ---- What a sampler must never call: it takes a lock of the driver's that a training step waits for ---- */

#define FORBIDDEN(name) int name(Device *device, unsigned int *count, void *found) { \
    (void)device, (void)found; note("forbidden", "%s\n", #name); *count = 0; return SUCCESS; }
FORBIDDEN(nvmlDeviceGetComputeRunningProcesses_v2)
FORBIDDEN(nvmlDeviceGetComputeRunningProcesses_v3)
FORBIDDEN(nvmlDeviceGetGraphicsRunningProcesses_v2)
FORBIDDEN(nvmlDeviceGetGraphicsRunningProcesses_v3)
FORBIDDEN(nvmlDeviceGetMPSComputeRunningProcesses_v3)
int nvmlDeviceGetProcessUtilization(Device *device, void *found, unsigned int *count, unsigned long long since) {
    (void)device, (void)found, (void)since;
    note("forbidden", "%s\n", __func__);
    *count = 0;
    return SUCCESS;
}
