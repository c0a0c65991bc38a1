/* What the control file of the fake NVML says, and what each call does about it before it answers.
 * fake_nvml.py lists the lines of the file. It is read again when it has changed: a GPU can be lost in mid-run.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       GPU_IS_LOST = 15, VERSION_MISMATCH = 25 };
enum { MAX_GPUS = 32, MAX_RULES = 128, NAME = 64, EVERY_GPU = -1, NO_GPU = -2 };

typedef struct { char name[NAME]; double value; int gpu; } Rule;
typedef struct {
    int count, init, gpm, crash, log, pcie_ms, pcie_bits;
    double clock_s, energy_reset_s;
    int lost[MAX_GPUS], hang[MAX_GPUS], mig[MAX_GPUS];
    Rule refused[MAX_RULES], constant[MAX_RULES];
    int refused_count, constant_count;
} Control;

static Control *control; /* an old one is never freed: another thread may be reading it */
static struct stat control_stat;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int sessions;

static void add_rule(Rule *rules, int *count, const char *name, double value, int gpu) {
    if (*count == MAX_RULES) { fprintf(stderr, "fake_nvml: too many rules\n"); abort(); }
    snprintf(rules[*count].name, NAME, "%s", name);
    rules[*count].value = value;
    rules[(*count)++].gpu = gpu;
}

static void parse(char *line, Control *c) {
    char word[NAME] = "", name[NAME] = "";
    int gpu = EVERY_GPU, number = 0;
    double value = 0;
    line[strcspn(line, "#\n")] = 0;
    if (sscanf(line, "%63s", word) != 1) return;
    char *rest = strstr(line, word) + strlen(word);
    if (!strcmp(word, "crash")) c->crash = 1;
    else if (!strcmp(word, "gpm")) c->gpm = strstr(rest, "on") != NULL;
    else if (!strcmp(word, "log")) c->log = strstr(rest, "on") != NULL;
    else if (!strcmp(word, "unsupported"))
        for (char *each = strtok(rest, " "); each; each = strtok(NULL, " "))
            add_rule(c->refused, &c->refused_count, each, NOT_SUPPORTED, EVERY_GPU);
    else if (!strcmp(word, "error") && sscanf(rest, "%d %63s %d", &number, name, &gpu) >= 2)
        add_rule(c->refused, &c->refused_count, name, number, gpu);
    else if (!strcmp(word, "constant") && sscanf(rest, "%63s %lf %d", name, &value, &gpu) >= 2)
        add_rule(c->constant, &c->constant_count, name, value, gpu);
    else if (!strcmp(word, "clock") && sscanf(rest, "%lf", &value) == 1) c->clock_s = value;
    else if (!strcmp(word, "energy_reset") && sscanf(rest, "%lf", &value) == 1) c->energy_reset_s = value;
    else if (!strcmp(word, "count") && sscanf(rest, "%d", &number) == 1 && number <= MAX_GPUS) c->count = number;
    else if (!strcmp(word, "init") && sscanf(rest, "%d", &number) == 1) c->init = number;
    else if (!strcmp(word, "pcie_ms") && sscanf(rest, "%d", &number) == 1) c->pcie_ms = number;
    else if (!strcmp(word, "pcie_bits") && sscanf(rest, "%d", &number) == 1) c->pcie_bits = number;
    else if (sscanf(rest, "%d", &gpu) == 1 && gpu >= 0 && gpu < MAX_GPUS) {
        if (!strcmp(word, "lost")) c->lost[gpu] = 1;
        else if (!strcmp(word, "hang")) c->hang[gpu] = 1;
        else if (!strcmp(word, "mig") && sscanf(rest, "%d %d", &gpu, &number) == 2) c->mig[gpu] = number;
        else goto unknown;
    } else
    unknown: { fprintf(stderr, "fake_nvml: found the line '%s %s' in $FAKE_NVML\n", word, rest); abort(); }
}

/* The file as it is now. Called under the lock, before every answer. */
static void reload(void) {
    struct stat now;
    const char *path = getenv("FAKE_NVML");
    if (!path || stat(path, &now)) memset(&now, 0, sizeof now);
    if (control && now.st_ino == control_stat.st_ino && now.st_size == control_stat.st_size &&
        now.st_mtim.tv_sec == control_stat.st_mtim.tv_sec && now.st_mtim.tv_nsec == control_stat.st_mtim.tv_nsec)
        return;
    Control *fresh = calloc(1, sizeof *fresh); /* what the file does not say is as here */
    fresh->count = 1, fresh->clock_s = fresh->energy_reset_s = -1, fresh->pcie_bits = 64;
    FILE *file = path ? fopen(path, "r") : NULL;
    for (char line[1024]; file && fgets(line, sizeof line, file);) parse(line, fresh);
    if (file) fclose(file);
    control = fresh, control_stat = now;
}

static void note(const char *ending, const char *format, ...) {
    char path[4096];
    if (!getenv("FAKE_NVML")) return;
    snprintf(path, sizeof path, "%s.%s", getenv("FAKE_NVML"), ending);
    FILE *file = fopen(path, "a"); /* appended by one write: lines of several processes do not mix */
    va_list values;
    va_start(values, format);
    if (file) vfprintf(file, format, values), fclose(file);
    va_end(values);
}

static int refusal(const char *name, int gpu) {
    for (int i = 0; i < control->refused_count; i++) {
        const Rule *rule = &control->refused[i];
        if (!strcmp(rule->name, name) && (rule->gpu == EVERY_GPU || rule->gpu == gpu)) return (int)rule->value;
    }
    return SUCCESS;
}

static const double *constant(const char *name, int gpu) {
    for (int i = 0; i < control->constant_count; i++) {
        const Rule *rule = &control->constant[i];
        if (!strcmp(rule->name, name) && (rule->gpu == EVERY_GPU || rule->gpu == gpu)) return &rule->value;
    }
    return NULL;
}

/* What every call begins with: the code that it is to return, if not SUCCESS. */
static int enter(const char *function, int gpu) {
    pthread_mutex_lock(&lock);
    reload();
    if (control->log && gpu == NO_GPU) note("log", "%s\n", function);
    else if (control->log) note("log", "%s %d\n", function, gpu);
    if (control->crash) abort();
    while (gpu >= 0 && gpu < control->count && control->hang[gpu]) { /* other threads' calls go on */
        pthread_mutex_unlock(&lock);
        nanosleep(&(struct timespec){0, 5000000}, NULL);
        pthread_mutex_lock(&lock);
        reload();
    }
    int code = refusal(function, gpu);
    if (gpu >= 0 && gpu >= control->count) code = INVALID_ARGUMENT;
    else if (gpu >= 0 && control->lost[gpu]) code = GPU_IS_LOST;
    if (!sessions && strncmp(function, "nvmlInit", 8)) code = UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return code;
}
#define ENTER(gpu) do { int code_ = enter(__func__, gpu); if (code_) return code_; } while (0)
#define ENTER_DEVICE(device) do { if (!(device)) return INVALID_ARGUMENT; ENTER((device)->gpu); } while (0)
